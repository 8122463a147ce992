"""One agent as a process of its own, with a real Valkey and a scripted gateway around it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.environment import ROOT
from tests.support.processes import TestProcess
from tests.support.scripted_gateway import ScriptedAttempt, ScriptedGateway
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

HELLO = {"main.py": "print('hello')\nopen('made.txt', 'w').write('here')"}
WAITING = {"main.py": "import time\nprint('begun', flush=True)\ntime.sleep(600)"}
COUNTING = {"main.py": "import time\nfor n in range(600):\n    print(n, flush=True)\n    time.sleep(0.1)"}
SHORT = {"main.py": "import time\nprint('begun', flush=True)\ntime.sleep(1.5)\nprint('done')"}


def smallest_acl(node_id: str) -> str:
    return (
        "resetkeys resetchannels -@all +ping +select +client|setinfo "
        f"(~node.{node_id} +brpop) (~node:{node_id}:report +set) (%R~node:{node_id}:assigned +hgetall) "
        f"(%R~pool:pace +get) (&/0.celeryev/{node_id}/* +publish)"
    )


class Stage:
    """One agent, called owner/n1 where no other name is given, its gateway and its broker."""

    def __init__(self, folder: Path, valkey: TestValkey, *, node: str = "n1", **enrolment: object) -> None:
        self.node_id = f"owner/{node}"
        self.folder = folder
        self.valkey = valkey
        self.gateway = ScriptedGateway(valkey, smallest_acl, **enrolment)
        self.gateway.start()
        self.data_dir = folder / "agent"
        self.agent = self.make_agent()

    def make_agent(self, *more: str) -> TestProcess:
        return TestProcess(
            "agent",
            [
                sys.executable, "-m", "worker_agent", "--gateway", self.gateway.address,
                "--username", "owner", "--node", self.node_id.removeprefix("owner/"),
                "--location", "Asia", "--runner", "process",
                "--data-dir", str(self.data_dir), "--max-tasks", "4", *more,
            ],
            {
                **{name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ},
                "HOME": str(self.folder),
                "HIVEMIND_PASSWORD": self.gateway.password,
                "PYTHONPATH": str(ROOT),
                # As in a shell that runs the pool's own parts.
                "CELERY_BROKER_URL": "redis://nobody:nothing@127.0.0.1:1/0",
            },
            self.folder,
            self.folder / "agent.log",
        )  # fmt: skip

    def start(self, *more: str) -> Stage:
        if more:
            self.agent = self.make_agent(*more)
        seen = self.agent.log().count(f"online {self.node_id}")
        self.agent.start()
        wait_until(lambda: self.said_online() > seen or not self.agent.is_running, "the agent is online")
        assert self.agent.is_running, self.agent.log_tail()
        return self

    def said_online(self) -> int:
        return self.agent.log().count(f"online {self.node_id}\n")

    def send(self, attempt_id: str, files: Mapping[str, str] | bytes, **spec: object) -> ScriptedAttempt:
        return self.gateway.send(self.node_id, attempt_id, files, **spec)

    def running(self, attempt_id: str, files: Mapping[str, str]) -> ScriptedAttempt:
        attempt = self.send(attempt_id, files)
        self.wait(lambda: bool(attempt.output), f"{attempt_id} prints")
        return attempt

    def outcome(self, attempt: ScriptedAttempt, timeout: float = 60.0) -> str:
        return self.wait(lambda: attempt.outcome, f"{attempt.attempt_id} ends", timeout)

    def wait(self, predicate: Callable[[], object], description: str, timeout: float = 60.0) -> object:
        try:
            return wait_until(predicate, description, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.agent.log_tail()}") from None

    def close(self) -> None:
        if self.agent.is_running:
            self.agent.thaw()
            # Two of a kind may become one on the way.
            self.agent.send(signal.SIGINT)
            try:
                self.agent.stop()
            finally:
                self.agent.kill()
        self.gateway.close()


StageMaker = Callable[..., Stage]
