"""A pool with several of each: two gateways, two dispatchers, PostgreSQL, and a broker that fails over."""

from __future__ import annotations

from pathlib import Path

import grpc

from local_pool import plan
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from tests.support.environment import free_port
from tests.support.pool import PoolOptions, TestPool
from tests.support.postgres_server import PostgresServer
from tests.support.processes import TestProcess
from tests.support.sentinel import SentinelBroker


class SeveralOfEach(TestPool):
    """Agents and clients know both gateways. `gateway` and `dispatcher` are the first ones."""

    __test__ = False

    def __init__(self, folder: Path, database: PostgresServer, **settings: str) -> None:
        self.database = database
        self._second_port = free_port()
        super().__init__(
            folder,
            PoolOptions(
                agents=2,
                settings=settings,
                broker=SentinelBroker,
                database_url=database.url,
                agent_arguments=("--gateway", f"127.0.0.1:{self._second_port}"),
            ),
        )
        self.addresses = f"{self.address},127.0.0.1:{self._second_port}"
        environment = {**self.environment(), "GRPC_SERVER_PORT": str(self._second_port)}
        argv = plan.dispatcher_part(environment).argv
        second = f"{plan.DISPATCHER_PREFIX}second"
        named = [second if word.startswith(plan.DISPATCHER_PREFIX) else word for word in argv]
        self.second_gateway = self._part("gateway-2", plan.gateway_part(environment).argv, environment)
        self.second_dispatcher = self._part("dispatcher-2", named, environment)

    def start(self) -> None:
        self.valkey.start()
        self.start_gateway()
        for part in (self.second_gateway, self.dispatcher, self.second_dispatcher):
            part.start()
        for _ in range(self.options.agents):
            self.add_agent(wait=False)
        for agent in self.agents:
            self.wait_online(agent)
        self.wait_second()

    def wait_second(self) -> None:
        """Until the second gateway answers."""

        def serves() -> bool:
            assert self.second_gateway.is_running, self.second_gateway.log_tail()
            with grpc.insecure_channel(f"127.0.0.1:{self._second_port}") as channel:
                try:
                    rpc.NodeManagerServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=2)
                except grpc.RpcError:
                    return False
            return True

        self.wait(serves, "the second gateway serves")

    def revive(self, part: TestProcess) -> None:
        part.start()
        if part is self.gateway:
            self.wait_serving()
        elif part is self.second_gateway:
            self.wait_second()

    def logs(self) -> str:
        more = (self.second_gateway, self.second_dispatcher, self.database.process)
        return "\n".join((super().logs(), *(f"----- {part.name}\n{part.log_tail()}" for part in more)))

    def close(self) -> None:
        for part in (self.second_dispatcher, self.second_gateway):
            if part.is_running:
                part.thaw()
                part.stop()
        super().close()

    def kill_everything(self) -> None:
        for part in (self.second_dispatcher, self.second_gateway):
            part.kill()
        super().kill_everything()
