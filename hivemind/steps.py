"""What a client does, step by step, without saying how: one text for `Pool` and for `AsyncPool`.

A function that works with the pool is a generator. It yields what is to be done (a call, a pause, work on
this machine) and is given what came of it. `drive` does the steps in this thread,
`hivemind.aio_channel.drive` in an event loop. An error is raised where the step stands, so a step is caught
as a call would be.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from hivemind.channel import GatewayChannel, Retries
from hivemind.errors import UnreachableError

# Of a stream on a line that breaks again and again.
MOST_BEGINNINGS = 10


@dataclass(frozen=True, slots=True)
class Call:
    """One answer to one request. `service`: users, nodes, tasks or admin."""

    service: str
    method: str
    request: Any
    deadline_seconds: float | None = None
    with_token: bool = True


@dataclass(frozen=True, slots=True)
class Upload:
    """One answer to a stream; `messages` is asked again for each try."""

    service: str
    method: str
    messages: Callable[[], Iterator[Any]]
    deadline_seconds: float


class Taker(Protocol):
    """Who takes the answers of a stream. A stream that breaks begins anew, at its first answer."""

    def begin(self) -> None: ...
    def take(self, answer: Any) -> None: ...
    def end(self) -> None:
        """All answers have come. Raises UnreachableError where some are missing."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Many answers to one request."""

    service: str
    method: str
    request: Any
    taker: Taker
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class LocalWork:
    """What takes this machine's time: files, packing, unpickling."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Several at once; answers with a `Came` for each."""

    parts: Sequence[Generator[Any, Any, Any]]
    at_once: int


@dataclass(frozen=True, slots=True)
class Came:
    """What came of steps: a value, or an error that is raised for whoever takes it."""

    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


Step = Call | Upload | Stream | Pause | LocalWork | Together
_Result = TypeVar("_Result")
Steps = Generator[Step, Any, _Result]


def drive(gateway: GatewayChannel, steps: Steps[_Result]) -> _Result:
    """All steps, one after the other, in this thread."""
    try:
        step = next(steps)
        while True:
            try:
                answer = _done(gateway, step)
            except BaseException as error:  # noqa: BLE001  the steps catch it, or it comes out of them again
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: _Result = end.value
        return result
    finally:
        steps.close()


def _done(gateway: GatewayChannel, step: Step) -> Any:
    match step:
        case Call():
            return gateway.call(
                method_of(gateway, step),
                step.request,
                with_token=step.with_token,
                deadline_seconds=step.deadline_seconds,
            )
        case Upload():
            return gateway.upload(
                method_of(gateway, step), step.messages, deadline_seconds=step.deadline_seconds
            )
        case Stream():
            return _streamed(gateway, step)
        case Pause():
            return time.sleep(step.seconds)
        case LocalWork():
            return step.do()
        case Together():
            return _together(gateway, step)


def _streamed(gateway: GatewayChannel, step: Stream) -> None:
    retries = Retries(gateway)
    for beginning in itertools.count():
        step.taker.begin()
        try:
            for answer in gateway.stream(
                method_of(gateway, step), step.request, deadline_seconds=step.deadline_seconds
            ):
                step.taker.take(answer)
                if beginning < MOST_BEGINNINGS:
                    retries.worked()
            return step.taker.end()
        except UnreachableError as error:
            retries.failed(error)
    return None


def method_of(gateway: Any, step: Call | Upload | Stream) -> Any:
    return getattr(getattr(gateway, step.service), step.method)


def _together(gateway: GatewayChannel, step: Together) -> list[Came]:
    return in_threads([partial(_outcome, gateway, part) for part in step.parts], step.at_once)


def in_threads(work: Sequence[Callable[[], _Result]], at_once: int) -> list[_Result]:
    """What came of each, so many at once. Plain threads, which can be had while a program is ending, too."""
    found: dict[int, _Result] = {}
    left = iter(list(enumerate(work)))
    turn = threading.Lock()

    def some() -> None:
        while True:
            with turn:
                number, do = next(left, (None, None))
            if number is None or do is None:
                return
            found[number] = do()

    threads = [threading.Thread(target=some) for _ in range(min(at_once, len(work)) - 1)]
    for thread in threads:
        thread.start()
    some()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(work))]


def _outcome(gateway: GatewayChannel, part: Generator[Any, Any, Any]) -> Came:
    try:
        return Came(drive(gateway, part))
    except Exception as error:  # noqa: BLE001  the caller looks at each
        return Came(error=error)
