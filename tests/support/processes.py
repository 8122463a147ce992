"""Processes that tests start: each with its log in a file, each remembered until it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.support import forking
from tests.support.waiting import wait_until

MARK = forking.MARK
LOG_TAIL_BYTES = 8000
Started = subprocess.Popen[bytes] | forking.ForkedProcess


def _kept() -> dict[str, str]:
    """The run's mark, and by what coverage follows processes where it measures."""
    return {name: value for name, value in os.environ.items() if name == MARK or name.startswith("COVERAGE_")}


class TestProcess:
    """One process in a session of its own; its output goes to a log file, appended over restarts."""

    __test__ = False

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = dict(env)
        self.cwd = cwd
        self.log_path = log
        self._process: Started | None = None

    def start(self) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        environment = {**self.env, **_kept()}
        # A library that is loaded before all others is loaded at a start only.
        if "LD_PRELOAD" not in self.env and (words := forking.forkable(self.argv)):
            self._process = forking.server().start(words, environment, self.cwd, self.log_path)
            return
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                env=environment,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def process(self) -> Started:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        return self.log()[-LOG_TAIL_BYTES:]

    def wait_for_line(self, text: str, timeout: float = 60.0) -> None:
        def seen() -> bool:
            if not self.is_running and text not in self.log():
                code = self.process.returncode
                raise AssertionError(f"{self.name} ended with {code} before {text!r}:\n{self.log_tail()}")
            return text in self.log()

        wait_until(seen, f"{self.name} says {text!r}", timeout)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM and its exit status; AssertionError when it does not end in time (it is killed then)."""
        if self.is_running:
            self.send(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.name} did not end within {timeout:g} s of SIGTERM:\n{self.log_tail()}"
            ) from None

    def kill(self) -> None:
        """SIGKILL to this process alone, as a crash would be; its children are left as they are."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)


def run_name() -> str:
    """Short and this run's own: what is named by it on a shared engine is told apart from other runs'."""
    return os.environ[MARK][:8]


def open_folder() -> Path:
    """A new folder that other users may look into, as tasks of the process runner must."""
    folder = Path(tempfile.mkdtemp(prefix=f"hm-{os.environ[MARK]}-"))
    folder.chmod(0o755)
    return folder


# Python's own, of whoever has started a process by spawn; it ends when that ends.
_TRACKER = "multiprocessing.resource_tracker"


def strays(run_id: str, folder: Path) -> list[psutil.Process]:
    """Living processes that the tests of this run have started, however far down.

    Tasks do not inherit an agent's environment: those are known by the run's folders.
    """
    found = []
    # Whoever called pytest may name the run's folder too.
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if _TRACKER in " ".join(process.cmdline()):
                continue
            if process.environ().get(MARK) == run_id or _is_in(process, str(folder), run_id):
                found.append(process)
    return found


def _is_in(process: psutil.Process, *parts: str) -> bool:
    places = [process.cwd(), *process.cmdline()]
    return any(part in place for part in parts for place in places)


def end_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=30)
