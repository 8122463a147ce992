"""Following a task through cut connections: each byte of output once, each state once, in order.

Knows the watch stream and where it must go on; what is done with the events is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from hivemind.channel import GatewayChannel, Retries
from hivemind.errors import NotYetError, TimedOutError, UnreachableError
from hivemind.made import made
from hivemind.models import OutputEvent, StateEvent, TaskEvent, TaskInfo, task_from_detail
from nodepool.protocol import nodepool_pb2 as pb

# For so long the pool may be away before a watcher gives up: as long as its nodes keep what they run.
PATIENCE_SECONDS = 600.0


@dataclass(slots=True)
class Position:
    """How far a watcher is. A new watch from the same position repeats nothing."""

    attempt_number: int = 0
    offset: int = 0
    last: TaskInfo | None = field(default=None, repr=False)

    def take(self, task_id: str, event: pb.WatchTaskResponse) -> TaskEvent | None:
        """The event when it is news, else None."""
        match event.WhichOneof("event"):
            case "state":
                return self._state(task_from_detail(task_id, event.state))
            case "output":
                return self._output(event.output)
            case _:  # a kind that only later versions know
                return None

    def _state(self, task: TaskInfo) -> TaskEvent | None:
        if task == self.last:
            return None
        self.last = task
        return StateEvent(task)

    def _output(self, chunk: pb.OutputChunk) -> TaskEvent | None:
        if chunk.attempt_number < self.attempt_number:
            return None
        if chunk.attempt_number > self.attempt_number:
            self.attempt_number, self.offset = chunk.attempt_number, 0
        known = max(0, self.offset - chunk.offset)
        data = chunk.data[known:]
        begin = chunk.offset + known
        skipped = begin - self.offset
        if not data and not skipped:
            return None
        self.offset = begin + len(data)
        return OutputEvent(
            attempt_number=chunk.attempt_number, offset=begin, data=data, skipped_bytes=skipped
        )


def watch(
    gateway: GatewayChannel, task_id: str, position: Position, *, timeout_seconds: float | None = None
) -> Iterator[TaskEvent]:
    """Events from `position` on, until the task has ended and all its output was seen.

    Raises NotYetError after `timeout_seconds`, UnreachableError when the pool stays away.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    retries = Retries(gateway)
    while True:
        try:
            for event in _events(gateway, task_id, position, deadline):
                retries.worked()
                yield event
            if position.last is not None and position.last.final:
                return
            problem = UnreachableError(f"the pool ended the watch of {task_id} early")
        except TimedOutError:
            raise NotYetError(f"the task {task_id} has not ended in time") from None
        except UnreachableError as error:
            problem = error
        # Who has seen nothing yet may have the wrong address, and wants to know soon.
        seen = position.last is not None and gateway.retry.patience_seconds
        retries.failed(problem, max(PATIENCE_SECONDS, gateway.retry.patience_seconds) if seen else None)


def _events(
    gateway: GatewayChannel, task_id: str, position: Position, deadline: float | None
) -> Iterator[TaskEvent]:
    remaining = None if deadline is None else deadline - time.monotonic()
    if remaining is not None and remaining <= 0:
        raise TimedOutError
    request = made(
        pb.WatchTaskRequest,
        task_id=task_id,
        output_offset=position.offset,
        attempt_number=position.attempt_number,
    )
    for event in gateway.stream(gateway.tasks.WatchTask, request, deadline_seconds=remaining):
        news = position.take(task_id, event)
        if news is not None:
            yield news
