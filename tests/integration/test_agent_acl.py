"""What an agent's broker user may do, tried with the user that a real pool gives: its own, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import redis
from redis.exceptions import NoPermissionError

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.pool import PoolFactory, TestPool
from tests.support.valkey import TestValkey, redis_server

ALLOWED = {
    "its pulse": "PING",
    "its database": "SELECT 0",
    "its library's name": "CLIENT SETINFO LIB-NAME hivemind",
    "take from its queue": "BRPOP {queue} 0.01",
    "write its report": "SET {report} {{}} EX 60",
    "keep its report": "EXPIRE {report} 60",
    "read its assignments": "HGETALL {assigned}",
    "read the pool's pace": "GET {pace}",
    "send its events": "PUBLISH /0.{events}/worker.heartbeat x",
}

REFUSED = {
    # another node's
    "take from another's queue": "BRPOP {other_queue} 0.01",
    "take from another's queue beside its own": "BRPOP {queue} {other_queue} 0.01",
    "read another's queue": "LRANGE {other_queue} 0 -1",
    "count another's queue": "LLEN {other_queue}",
    "read another's assignments": "HGETALL {other_assigned}",
    "read another's report": "GET {other_report}",
    "keep another's report": "EXPIRE {other_report} 60",
    "keep its assignments": "EXPIRE {assigned} 60",
    "write another's report": "SET {other_report} x EX 60",
    "delete another's report": "DEL {other_report}",
    "read another's facts": "HGETALL node:{other}:facts",
    "read another's reservations": "HGETALL node:{other}:reserved",
    "publish another's events": "PUBLISH /0.{other_events}/worker.heartbeat x",
    "publish to another's control": "PUBLISH /0.{other_control}.pidbox x",
    "listen to another's control": "PSUBSCRIBE /0.{other_control}.pidbox",
    "listen to another's events": "PSUBSCRIBE /0.{other_events}/*",
    # the pool's
    "take a task's hint": "BRPOP normal.any 0.01",
    "publish to everybody's control": "PUBLISH /0.celery.pidbox x",
    "publish everybody's events": "PUBLISH /0.celeryev/worker.heartbeat x",
    "publish a task's change": "PUBLISH task-events x",
    "listen to tasks' changes": "SUBSCRIBE task-events",
    "listen to everything": "PSUBSCRIBE *",
    "set the pool's pace": "SET {pace} 0.01",
    "stretch the pool's pace": "APPEND {pace} 0",
    "read the pace otherwise": "GETRANGE {pace} 0 -1",
    "read the pool's sweeper": "GET pool:sweeper",
    "list the nodes": "SMEMBERS nodes",
    "read a task's output": "HGETALL attempt:x:1:output",
    "write a task's output": "HSET attempt:x:1:output data x",
    "hold the sweep up": "SET pool:sweeper x",
    "bind a queue to an exchange": "SADD _kombu.binding.celery.pidbox x",
    # hints in anybody's name
    "push to its own queue": "LPUSH {queue} x",
    "push to another's queue": "LPUSH {other_queue} x",
    "push to the dispatcher's queue": "LPUSH high.any x",
    "push to the end of a queue": "RPUSH {queue} x",
    "move from its queue": "LMOVE {queue} {other_queue} LEFT RIGHT",
    "move from its queue, waiting": "BRPOPLPUSH {queue} {other_queue} 0.01",
    # its own keys in other ways
    "read its queue": "LRANGE {queue} 0 -1",
    "delete its queue": "DEL {queue}",
    "read its report": "GET {report}",
    "keep its report for ever": "PERSIST {report}",
    "append to its report": "APPEND {report} x",
    "rename its report": "RENAME {report} {other_report}",
    "copy another's report": "COPY {other_report} {report}",
    "assign itself work": "HSET {assigned} x:1 {{}}",
    "take work from its list": "HDEL {assigned} x:1",
    "free its reservations": "DEL node:{node}:reserved",
    "write its facts": "HSET node:{node}:facts capacity_cpu_score 1000000",
    "write over its assignments": "SET {assigned} x",
    "write its report to its queue": "SET {queue} x",
    # the server
    "list the keys": "KEYS *",
    "scan the keys": "SCAN 0",
    "pick a key": "RANDOMKEY",
    "count the keys": "DBSIZE",
    "read the configuration": "CONFIG GET *",
    "write the configuration": "CONFIG SET maxmemory 1",
    "forget everything": "FLUSHALL",
    "forget the database": "FLUSHDB",
    "swap databases": "SWAPDB 0 1",
    "stop the server": "SHUTDOWN NOSAVE",
    "ask about the server": "INFO",
    "watch everybody": "MONITOR",
    "save": "BGSAVE",
    "follow another server": "REPLICAOF 127.0.0.1 1",
    "read the slow log": "SLOWLOG GET",
    "list the users": "ACL LIST",
    "make a user": "ACL SETUSER mallory on nopass ~* +@all",
    "ask who it is": "ACL WHOAMI",
    "list the connections": "CLIENT LIST",
    "cut connections": "CLIENT KILL TYPE normal",
    "pause everybody": "CLIENT PAUSE 1000",
    "list the commands": "COMMAND",
    # transactions and scripts
    "begin a transaction": "MULTI",
    "watch a key": "WATCH {report}",
    "run a script on another's key": "EVAL return(redis.call('GET',KEYS[1])) 1 {other_report}",
    "run a script on its own key": "EVAL return(redis.call('SET',KEYS[1],'x')) 1 {report}",
    "run a script without keys": "EVAL return(1) 0",
    "run a stored script": "EVALSHA 0000000000000000000000000000000000000000 0",
    "store a script": "SCRIPT LOAD return(1)",
    "load a function": "FUNCTION LOAD x",
    "call a function": "FCALL x 0",
}

# Refused too, by the server's own configuration or in the words of a transaction.
REFUSED_OTHERWISE = {"debug": "DEBUG SLEEP 0", "load a module": "MODULE LOAD x", "end a transaction": "EXEC"}


@dataclass(frozen=True)
class Stage:
    pool: TestPool
    broker_url: str
    client: redis.Redis
    words: dict[str, str]

    def knows(self, command: str) -> bool:
        return command in self.pool.valkey.admin.acl_cat("connection")

    def run(self, command: str) -> object:
        parts = [part.format(**self.words) for part in command.split()]
        return self.client.execute_command(*parts)  # type: ignore[no-untyped-call]


def enrol(owner: Account, node_id: str) -> pb.EnrollAgentResponse:
    request = pb.RegisterWorkerNodeRequest(
        node_id=node_id, hostname="127.0.0.1", cpu_cores=2, memory_gb=4, cpu_score=2000, location="Asia",
        kind="agent", docker_status="running",
    )  # fmt: skip
    assert owner.stubs.nodes.RegisterWorkerNode(request, metadata=owner.metadata, timeout=60).success
    answer: pb.EnrollAgentResponse = owner.stubs.nodes.EnrollAgent(
        pb.EnrollAgentRequest(node_id=node_id), metadata=owner.metadata, timeout=60
    )
    assert answer.success
    return answer


@pytest.fixture(scope="module", params=["valkey", "redis"])
def stage(request: pytest.FixtureRequest, pool_factory: PoolFactory) -> Iterator[Stage]:
    """On the embedded Valkey and on Debian's Redis."""
    binary = redis_server() if request.param == "redis" else ""
    pool = pool_factory(agents=0, broker=partial(TestValkey, binary=binary))
    mallory, alice = pool.register_user("mallory"), pool.register_user("alice")
    own, other = enrol(mallory, "mallory/n1"), enrol(alice, "alice/n10")
    neighbour = enrol(mallory, "mallory/n11")
    words = {
        "node": "mallory/n1", "queue": own.queue, "report": own.report_key, "assigned": own.assigned_key,
        "events": own.event_exchange, "other": "alice/n10", "other_queue": other.queue,
        "other_report": other.report_key, "other_assigned": other.assigned_key,
        "other_events": other.event_exchange, "other_control": other.control_exchange, "pace": own.pace_key,
    }  # fmt: skip
    words |= {"neighbour_queue": neighbour.queue, "neighbour_report": neighbour.report_key}
    client = redis.Redis.from_url(own.broker_url, decode_responses=True, socket_timeout=60)
    yield Stage(pool, own.broker_url, client, words)
    client.close()


@pytest.mark.parametrize("command", ALLOWED.values(), ids=ALLOWED.keys())
def test_an_agent_may(stage: Stage, command: str) -> None:
    if command.startswith("CLIENT SETINFO") and not stage.knows("client|setinfo"):
        # As on Redis before 7.2: libraries ask, and go on without it.
        with pytest.raises(redis.ResponseError):
            stage.run(command)
    else:
        stage.run(command)


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED.keys())
def test_an_agent_may_not(stage: Stage, command: str) -> None:
    with pytest.raises(NoPermissionError):
        stage.run(command)


@pytest.mark.parametrize("command", REFUSED_OTHERWISE.values(), ids=REFUSED_OTHERWISE.keys())
def test_an_agent_may_not_in_other_words(stage: Stage, command: str) -> None:
    with pytest.raises(redis.ResponseError, match=r"not allowed|NOPERM"):
        stage.run(command)


def test_a_node_whose_name_goes_on_from_ours_is_another_node(stage: Stage) -> None:
    for command in ("BRPOP {neighbour_queue} 0.01", "SET {neighbour_report} x"):
        with pytest.raises(NoPermissionError):
            stage.run(command)


def test_a_command_smuggled_into_a_transaction_does_not_run(stage: Stage) -> None:
    admin, report = stage.pool.valkey.admin, stage.words["other_report"]
    admin.set(report, "alice's", ex=60)
    with stage.client.pipeline(transaction=True) as pipe:
        pipe.set(stage.words["report"], "mine", ex=60)
        pipe.set(report, "mallory's", ex=60)
        with pytest.raises(redis.RedisError):
            pipe.execute()
    assert admin.get(report) == "alice's"


def test_keys_of_other_databases_are_out_of_reach(stage: Stage) -> None:
    with redis.Redis.from_url(stage.broker_url.removesuffix("/0") + "/1", decode_responses=True) as client:
        for command in ("KEYS *", "GET x", "FLUSHDB"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def test_the_user_is_cut_off_when_its_node_leaves(stage: Stage) -> None:
    alice = stage.pool.register_user()
    enrolment = enrol(alice, f"{alice.username}/leaves")
    client = redis.Redis.from_url(enrolment.broker_url, decode_responses=True, socket_timeout=60)
    assert client.ping()
    request = pb.DeregisterNodeRequest(node_id=f"{alice.username}/leaves")
    assert alice.stubs.nodes.DeregisterNode(request, metadata=alice.metadata, timeout=60).success
    with pytest.raises(redis.RedisError):
        client.ping()
    client.close()


def test_a_second_enrolment_makes_the_first_password_worthless(stage: Stage) -> None:
    user = stage.pool.register_user()
    first = enrol(user, f"{user.username}/twice")
    connected = redis.Redis.from_url(first.broker_url, socket_timeout=60, retry=None)
    assert connected.ping()
    second = enrol(user, f"{user.username}/twice")
    # Whoever is connected already is cut off, not only kept from coming back.
    with pytest.raises(redis.RedisError):
        connected.ping()
    connected.close()
    old = redis.Redis.from_url(first.broker_url, socket_timeout=60)
    with pytest.raises(redis.AuthenticationError):
        old.ping()
    old.close()
    with redis.Redis.from_url(second.broker_url, socket_timeout=60) as new:
        assert new.ping()
