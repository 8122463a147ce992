"""One container that is kept warm: its line, its working directory, the task that it runs.

The directory is bound into the container once, and goes where a task's is for as long as the task runs; the
task's files are moved into it, and out again. Knows not who may use it (`worker_agent.runners.warm_rules`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from worker_agent.runners import proc, warm_line
from worker_agent.runners.container_run import ENGINE_ERRORS, close_stream, give, receive
from worker_agent.runners.frames import Demultiplexer
from worker_agent.runners.sandbox import WORK
from worker_agent.runners.warm_line import Frames, LineError, TaskEnd
from worker_agent.runners.warm_rules import SandboxUse

_CLEAN_SECONDS = 30.0
_MODE = 0o700


@dataclass(slots=True, eq=False)
class WarmContainer:
    """One thread at a time, but for `end_task`."""

    client: docker.APIClient
    container: str
    stream: Any
    slot: Path  # where its working directory lies while it waits
    uid: int | None
    use: SandboxUse
    root_pid: int = 0  # of its first process; 0: not on this machine
    _demultiplexer: Demultiplexer = field(default_factory=Demultiplexer)
    _frames: Frames = field(default_factory=Frames)
    _come: list[tuple[bytes, bytes]] = field(default_factory=list)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def greet(self, within_seconds: float) -> bool:
        """Give it its program; whether it has begun. Raises what the engine raises, and LineError."""
        self.say(warm_line.program())
        told = self._next(within_seconds)
        if told is None or told[0] != warm_line.HELLO:
            return False
        pid = int(self.client.inspect_container(self.container)["State"].get("Pid", 0))
        with contextlib.suppress(OSError):
            if pid and (Path("/proc") / str(pid) / "root" / WORK.lstrip("/")).samefile(self.slot):
                self.root_pid = pid
        return True

    def say(self, words: bytes) -> None:
        with self._writing:
            give(self.stream, words)

    def is_quiet(self) -> bool:
        """Whether it lives and waits: nothing has come, not even the line's end."""
        line = select.poll()
        line.register(self.stream.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return not self._come and not line.poll(0)

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        """What it tells, until the line ends. Raises OSError and LineError."""
        while True:
            while self._come:
                yield self._come.pop(0)
            if not self._receive():
                return

    def clean(self) -> str:
        """What of the last task is left in it, in a few words, or nothing. Its directory is in its place."""
        if not self.is_quiet():
            return "it told something that was not asked for"
        if self.root_pid and (left := proc.descendants(self.root_pid)):
            return f"{len(left)} processes"
        self.say(warm_line.CLEAN)
        told = self._next(_CLEAN_SECONDS)
        if told is None or told[0] != warm_line.CLEANED:
            return "it did not answer"
        return told[1].decode(errors="replace") or self._clean_slot()

    def take_in(self, work_dir: Path) -> bool:
        """The files of the task into the directory, which goes where they were; False: nothing has moved."""
        if not _move_all(work_dir, self.slot):
            return False
        work_dir.rmdir()
        self.slot.rename(work_dir)
        return True

    def give_out(self, work_dir: Path) -> bool:
        """Into a directory of their own again; False: they are where they were."""
        new = self.slot.with_name(self.slot.name + ".out")
        new.mkdir(mode=_MODE)
        if not _move_all(work_dir, new):
            new.rmdir()
            return False
        if self.uid is not None:
            os.chown(new, self.uid, self.uid)
        work_dir.rename(self.slot)
        new.rename(work_dir)
        return True

    def close(self) -> None:
        """What is in it ends with the line."""
        close_stream(self.stream)
        with contextlib.suppress(OSError):
            self.slot.rmdir()

    def _next(self, within_seconds: float) -> tuple[bytes, bytes] | None:
        line = select.poll()
        line.register(self.stream.fileno(), select.POLLIN)
        ends = time.monotonic() + within_seconds
        while not self._come:
            if not line.poll(max(0.0, ends - time.monotonic()) * 1000):
                return None
            if not self._receive():
                return None
        return self._come.pop(0)

    def _receive(self) -> bool:
        """Waits for something to come; false: the line has ended."""
        data = receive(self.stream)
        for part in self._demultiplexer.feed(data) if data else ():
            self._come += self._frames.feed(part)
        return bool(data)

    def _clean_slot(self) -> str:
        if left := os.listdir(self.slot):  # noqa: PTH208
            return f"{left[0]!a} in its working directory"
        for name in os.listxattr(self.slot, follow_symlinks=False):
            os.removexattr(self.slot, name, follow_symlinks=False)
        self.slot.chmod(_MODE)
        if self.uid is not None:
            os.chown(self.slot, self.uid, self.uid)
        return ""


def _move_all(source: Path, target: Path) -> bool:
    """All or nothing."""
    moved: list[str] = []
    try:
        if os.listdir(target):  # noqa: PTH208
            return False
        for name in os.listdir(source):  # noqa: PTH208
            os.rename(source / name, target / name)  # noqa: PTH104
            moved.append(name)
    except OSError:
        for name in moved:
            os.rename(target / name, source / name)  # noqa: PTH104
        return False
    return True


class WarmTask:
    """The task that a warm container runs now, as `ContainerRun` asks for it."""

    def __init__(self, warm: WarmContainer, job: bytes) -> None:
        self._warm = warm
        self._job = job
        self.client, self.container = warm.client, warm.container
        self.end: TaskEnd | None = None
        self.touched = False

    def outputs(self) -> Iterator[bytes]:
        try:
            self._warm.say(self._job)
            self._job = b""
            for kind, payload in self._warm.frames():
                if kind == warm_line.OUTPUT:
                    yield payload
                elif kind == warm_line.ENDED:
                    self.end = TaskEnd.of(payload)
                    return
                else:
                    raise LineError("the sandbox answered what it was not asked")
        except LineError:
            self._kill()  # wait() tells how it ended

    def exit_code(self) -> int:
        if self.end is not None:
            return self.end.exit_code
        return int(self.client.wait(self.container, timeout=None)["StatusCode"])

    def out_of_memory(self) -> bool:
        if self.end is not None:
            return self.end.memory_kills > 0
        return bool(self.client.inspect_container(self.container)["State"].get("OOMKilled"))

    def send(self, number: signal.Signals) -> None:
        """SIGKILL ends the sandbox: nothing inside is asked."""
        if number == signal.SIGTERM:
            self._warm.say(warm_line.END)
        else:
            self._kill()

    def measured(self) -> tuple[float, int]:
        return (self.end.cpu_seconds, self.end.largest_bytes) if self.end is not None else (0.0, 0)

    def _kill(self) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):
            self.client.kill(self.container, int(signal.SIGKILL))
