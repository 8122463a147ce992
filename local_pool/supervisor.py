"""Starts the parts of a pool, starts again what dies, and stops all in order.

Single-threaded: the owner calls tick() often (wait_for() does). Knows processes and log files,
nothing of what the parts do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_pool import parent_death
from local_pool.leftover_processes import end_leftovers, write_pid_file
from local_pool.log_files import bound, last_lines, open_log
from local_pool.part_probes import PartProbe
from local_pool.part_signs import PartSigns
from nodepool import hardening, watchdog

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a part that lived this long starts with the first delay again
TICK_SECONDS = 0.05
LEFTOVER_GRACE_SECONDS = 5.0
SHOWN_LINES = 12
KILLED_SECONDS = 5.0
# A part that hangs is started again, so often in an hour; then it is left alone, for somebody to look at.
MOST_HANGS = 5
HANGS_WITHIN_SECONDS = 3600.0


class StopRequestedError(Exception):
    """The owner wants everything to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPart:
    """A program of the pool. Parts are stopped from the highest stage to the lowest, a stage together."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]  # all of it; secrets in it go to the program by a pipe (nodepool/hardening.py)
    stage: int
    stop_seconds: float  # from SIGTERM to SIGKILL
    umask: int = -1  # -1: the supervisor's own
    # It says that it works (nodepool/watchdog.py), and hangs when it has not for so long; 0: it says nothing.
    silent_seconds: float = 0.0
    # Of one that says nothing by itself: whether it answers. Counts once it has answered for the first time.
    answers: Callable[[], bool] | None = None
    # Exit codes after which it is not started again: it said that another has its place.
    final_codes: frozenset[int] = frozenset()


class Backoff:
    """How long to wait before a part that died is started again, seconds."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY_SECONDS

    def after(self, lived_seconds: float) -> float:
        if lived_seconds >= STEADY_SECONDS:
            self._next = FIRST_DELAY_SECONDS
        delay = self._next
        self._next = min(delay * 2, LONGEST_DELAY_SECONDS)
        return delay


class _Running:
    """A part's present process, if any, and when the next one is due."""

    def __init__(self, part: PoolPart, log_path: Path, pid_path: Path) -> None:
        self.part = part
        self.log_path = log_path
        self.pid_path = pid_path
        self.backoff = Backoff()
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.due_at: float | None = None
        self.log_offset = 0
        self.hung_at: list[float] = []
        self.notify_address = ""
        self.probe: PartProbe | None = None
        self.has_ended = False

    def start(self, now: float) -> None:
        self.due_at = None
        self.started_at = now
        log = open_log(self.log_path)
        self.log_offset = os.fstat(log).st_size
        environment, secrets = hardening.split(self.part.env)
        pipe = hardening.pipe_of(secrets) if secrets else None
        if pipe is not None:
            environment[hardening.PIPE_VARIABLE] = str(pipe)
        if self.part.silent_seconds and self.probe is None:
            environment[watchdog.VARIABLE] = self.notify_address
        argv = [sys.executable, "-I", "-S", str(parent_death.__file__), str(os.getpid()), *self.part.argv]
        try:
            # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which knows the order.
            self.process = subprocess.Popen(
                argv,
                env=environment,
                pass_fds=() if pipe is None else (pipe,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=self.part.umask,
            )
        finally:
            os.close(log)
            if pipe is not None:
                os.close(pipe)
        write_pid_file(self.pid_path, self.process.pid)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            if number is signal.SIGKILL:
                # The session is its own, so its helpers go with it.
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Parts of one data directory: logs under `logs/`, pid files under `run/`."""

    def __init__(
        self, data_dir: Path, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logs = data_dir / "logs"
        self._run = data_dir / "run"
        for folder in (self._logs, self._run):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._say = say
        self._clock = clock
        self._parts: dict[str, _Running] = {}
        self._signs = PartSigns(self._run, clock)
        self._stop = False
        self._hurry = False

    def end_leftovers(self) -> None:
        """Ends parts of an earlier life of this data directory. Call before the first start()."""
        files = sorted(self._run.glob("*.pid"))
        for name in end_leftovers(files, grace_seconds=LEFTOVER_GRACE_SECONDS, clock=self._clock):
            self._say(f"ended {name}, left over from an earlier run")

    def start(self, part: PoolPart) -> None:
        """Raises OSError when there is no such program to run the part with."""
        running = _Running(part, self._logs / f"{part.name}.log", self._run / f"{part.name}.pid")
        running.notify_address = self._signs.address
        if part.answers is not None:
            running.probe = PartProbe(part.name, part.answers, self._clock)
            running.probe.start()
        self._parts[part.name] = running
        running.start(self._clock())

    def request_stop(self) -> None:
        """For signal handlers: takes effect at the next tick; asked again, nobody is waited for."""
        self._hurry = self._stop
        self._stop = True

    def is_running(self, name: str) -> bool:
        return self._parts[name].is_running

    def pid(self, name: str) -> int:
        process = self._parts[name].process
        if process is None:
            raise RuntimeError(f"{name} was not started")
        return process.pid

    def tick(self) -> None:
        """Sees who died and starts who is due. Raises StopRequestedError once a stop is asked for."""
        if self._stop:
            raise StopRequestedError
        now = self._clock()
        self._signs.read()
        for running in self._parts.values():
            self._end_hanging(running, now)
            if running.has_ended:
                continue
            if running.due_at is None and not running.is_running:
                self._mourn(running, now)
            elif running.due_at is not None and now >= running.due_at:
                running.start(now)
                self._say(f"{running.part.name} started again (process {self.pid(running.part.name)})")
            bound(running.log_path)

    def _end_hanging(self, running: _Running, now: float) -> None:
        """Its end is seen like any other, and it is started again."""
        patience, process = running.part.silent_seconds, running.process
        if not patience or process is None or not running.is_running:
            return
        if running.probe is not None and running.probe.take(running.started_at):
            self._signs.note(process.pid)
        silent = self._signs.silent_seconds(process.pid)
        if silent <= patience:
            return
        name = running.part.name
        self._signs.forget(process.pid)
        running.hung_at = [at for at in running.hung_at if now - at < HANGS_WITHIN_SECONDS]
        if len(running.hung_at) >= MOST_HANGS:
            self._say(f"{name} hangs again, for the {MOST_HANGS + 1}th time in an hour, and is left alone")
            return
        running.hung_at.append(now)
        self._say(f"{name} hangs: it has said nothing for {silent:.0f} s; it is killed and started again")
        running.send(signal.SIGKILL)
        process.wait(KILLED_SECONDS)

    def wait_for(self, ready: Callable[[], bool], what: str, *, remind_seconds: float = 20.0) -> None:
        """Ticks until it is so. However long it takes: parts that die are started again meanwhile."""
        remind_at = self._clock() + remind_seconds
        while True:
            self.tick()
            if ready():
                return
            if self._clock() >= remind_at:
                self._say(f"still waiting: {what}; see {self._logs}")
                remind_at += remind_seconds
            time.sleep(TICK_SECONDS)

    def run(self) -> None:
        """Ticks until a stop is asked for."""
        try:
            while True:
                self.tick()
                time.sleep(TICK_SECONDS)
        except StopRequestedError:
            return

    def stop_all(self) -> bool:
        """Ends all parts, highest stage first. Whether every one of them ended by itself in time."""
        clean = True
        for running in self._parts.values():
            if running.probe is not None:
                running.probe.close()
        for stage in sorted({running.part.stage for running in self._parts.values()}, reverse=True):
            members = [running for running in self._parts.values() if running.part.stage == stage]
            clean = self._stop_stage(members) and clean
        self._signs.close()
        return clean

    def _stop_stage(self, members: list[_Running]) -> bool:
        started = self._clock()
        for running in members:
            if running.is_running:
                self._say(f"stopping {running.part.name}")
            running.send(signal.SIGTERM)
        clean = True
        for running in members:
            while running.is_running and not self._hurry:
                if self._clock() - started >= running.part.stop_seconds:
                    break
                time.sleep(TICK_SECONDS)
            if running.is_running:
                clean = False
                self._say(f"{running.part.name} did not stop in time and is killed")
                running.send(signal.SIGKILL)
                if running.process is not None:
                    running.process.wait(KILLED_SECONDS)
            running.due_at = None
            running.pid_path.unlink(missing_ok=True)
        return clean

    def _mourn(self, running: _Running, now: float) -> None:
        name, process = running.part.name, running.process
        lived = now - running.started_at
        if process is not None and process.returncode in running.part.final_codes:
            running.has_ended = True
            running.pid_path.unlink(missing_ok=True)
            self._say(f"{name} {_ending(process.returncode)}, and is not started again: see its log")
            return
        delay = running.backoff.after(lived)
        running.due_at = now + delay
        running.pid_path.unlink(missing_ok=True)
        if process is not None:
            self._say(f"{name} {_ending(process.returncode)} after {lived:.1f} s; again in {delay:g} s")
        for line in last_lines(running.log_path, SHOWN_LINES, since=running.log_offset):
            self._say(f"  {name} | {line}")


def _ending(code: int) -> str:
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"
