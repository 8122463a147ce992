"""A user who always has some tasks waiting, tells each again until it is accepted, and fetches results."""

from __future__ import annotations

import io
import random
import re
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hivemind import NodePoolClient
from hivemind.channel import Endpoint, GatewayChannel, RetryPolicy
from hivemind.errors import ClientError
from nodepool.protocol import nodepool_pb2 as pb
from tests.chaos.history import Call
from tests.support.tasks import script
from tests.support.waiting import wait_until

# Bounded by the pool's places and not by the machine, so that a pace can be told from a busy machine.
RUN_SECONDS = (1.5, 2.5)
OUTSTANDING = 14
CALL_SECONDS = 6.0
_AGAIN_SECONDS = 0.4
_INSIST_SECONDS = 30.0
_PERIOD_SECONDS = 0.1
_PROGRAM = """
import os, time
me = os.urandom(8).hex()
print("begun", me, flush=True)
time.sleep({seconds:.3f})
with open("who.txt", "w") as file:
    file.write(me)
"""
_BEGUN = re.compile(r"begun (\w+)")


@dataclass(slots=True)
class Submitted:
    """As its owner knows it."""

    task_id: str
    accepted: float | None = None
    output_token: str = ""
    result_token: str = ""
    done: bool = False


@dataclass
class Workload:
    """Threads from start() to stop(). `has_ended` is a look at the pool's own books: it saves questions."""

    address: str
    username: str
    password: str
    has_ended: Callable[[str], bool]
    seed: int = 0
    submitted: dict[str, Submitted] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._give_up_at = float("inf")
        self._dice = random.Random(self.seed)
        with NodePoolClient(self.address) as client:
            client.login(self.username, self.password)
            token = client.token
        # Each failure is to be seen as it is.
        self._gateway = GatewayChannel(
            Endpoint(address=self.address), token=token, retry=RetryPolicy(attempts=1, max_wait_seconds=0.0)
        )
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._submit_all, self._fetch_all)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop_submitting(self) -> None:
        """What was not accepted may still be, for a while."""
        self._give_up_at = time.monotonic() + _INSIST_SECONDS
        self._ending.set()
        self._threads[0].join()

    def await_all(self, seconds: float) -> bool:
        """Whether every accepted task was fetched in time."""
        try:
            wait_until(lambda: not self.unfinished, "all results are fetched", seconds, period=0.1)
        except AssertionError:
            return False
        return True

    @property
    def unfinished(self) -> list[Submitted]:
        return [it for it in list(self.submitted.values()) if not it.done]

    def close(self) -> None:
        self._ending.set()
        self._give_up_at = 0.0
        for task in self.submitted.values():
            task.done = True
        for thread in self._threads:
            thread.join()
        self._gateway.close()

    # -- threads ---------------------------------------------------------------------------------------
    def _submit_all(self) -> None:
        number = 0
        while not self._ending.is_set():
            if len(self.unfinished) >= OUTSTANDING:
                self._ending.wait(_PERIOD_SECONDS)
                continue
            number += 1
            task = Submitted(f"chaos-{self.seed}-{number}")
            self.submitted[task.task_id] = task
            self._submit(task)

    def _submit(self, task: Submitted) -> None:
        """The same, with the same id, until there is an answer, also when all is about to end."""
        program = _PROGRAM.format(seconds=self._dice.uniform(*RUN_SECONDS))
        request = pb.UploadTaskRequest(task_id=task.task_id, task_zip=script(program), cpu_score=100)
        while time.monotonic() < self._give_up_at:
            answer = self._call("UploadTask", self._gateway.tasks.UploadTask, request)
            if answer is not None:
                task.accepted = time.monotonic()
                return
            time.sleep(_AGAIN_SECONDS)
        task.done = True

    def _fetch_all(self) -> None:
        while not self._ending.is_set() or self.unfinished:
            waiting = [it for it in self.unfinished if it.accepted is not None]
            ended = [it for it in waiting if self.has_ended(it.task_id)]
            if not ended and waiting:
                self._poll(waiting[0])
                self._ending.wait(5 * _PERIOD_SECONDS)
            for task in ended:
                if not self._fetch(task):
                    time.sleep(_AGAIN_SECONDS)
                    break
            time.sleep(_PERIOD_SECONDS)

    def _poll(self, task: Submitted) -> None:
        request = pb.PollTaskStatusRequest(task_id=task.task_id)
        self._call("PollTaskStatus", self._gateway.tasks.PollTaskStatus, request)

    def _fetch(self, task: Submitted) -> bool:
        request = pb.GetTaskResultRequest(task_id=task.task_id, token=self._gateway.token)
        answer = self._call("GetTaskResult", self._gateway.tasks.GetTaskResult, request)
        if answer is None:
            return False
        if answer.success:
            with zipfile.ZipFile(io.BytesIO(answer.result_zip)) as result:
                names = result.namelist()
                output = result.read("task_logs.txt").decode() if "task_logs.txt" in names else ""
                task.result_token = result.read("who.txt").decode() if "who.txt" in names else ""
            task.output_token = " ".join(_BEGUN.findall(output))
        task.done = True
        return True

    def _call(self, name: str, method: Any, request: Any) -> Any:
        began = time.monotonic()
        try:
            answer = self._gateway.call(method, request, deadline_seconds=CALL_SECONDS)
        except ClientError as error:
            self.calls.append(Call(name, began, time.monotonic(), str(error.code), str(error)))
            return None
        self.calls.append(Call(name, began, time.monotonic()))
        return answer
