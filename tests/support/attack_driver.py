"""An agent's part of the attacks: starts the runner of one level, lets them run, and looks what they left.

A program, so that it can be another user's: `python -m tests.support.attack_driver LEVEL FOLDER [IMAGE]`
prints one line of JSON. Its environment and its folder hold what the attacks look for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import structlog

from tests.support.attacks import BOMBS, NUMBERS
from tests.support.environment import ROOT
from tests.support.runs import MIB, LiveRun, RunFactory, task_processes
from tests.support.waiting import wait_until
from worker_agent.runners.base import RunEnd, Runner
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.process import ProcessRunner

MEMORY_MIB, DISK_MIB, PROCESSES, TMPFS_MIB = 64, 16, 100, 48
# What a run hides shows in the disk as a whole, where others write and delete as well: much more than they.
HIDDEN_MIB = 640
FORKS = "processes"
PATIENCE_SECONDS = 400  # who is to be ended is so long before, on a machine that is very busy, too
LEFT_BEHIND = {
    "leave files in /tmp, /var/tmp or /dev/shm for others",
    "leave System V shared memory",
    "leave a POSIX message queue",
    "leave a process behind",
}
_CODE = (ROOT / "tests/support/attacks.py").read_text()


class Attacked:
    """One level: its runner, and everything that the attacks are after."""

    def __init__(self, level: str, folder: Path, image: str) -> None:
        self.mark = folder.name  # which this process's command line has, too
        self.key = abs(hash(self.mark)) % 1_000_000_000 + 1
        self.state = folder / "state"
        self.runner: Runner = (
            DockerRunner(f"tester/{folder.name}")
            if level == "docker"
            else ProcessRunner(self.state, use_bubblewrap=level.endswith("with bubblewrap"))
        )
        self.runs = RunFactory(
            self.runner,
            folder,
            image=image,
            node_id=f"tester/{folder.name}",
            memory_bytes=MEMORY_MIB * MIB,
            # The time limit ends none of them: it would look as if something else had.
            max_run_seconds=PATIENCE_SECONDS + 100,
            max_workdir_bytes=DISK_MIB * MIB,
            tmpfs_bytes=TMPFS_MIB * MIB,
            pids_limit=PROCESSES,
        )
        self.secret, self.open_file = folder / "secret.txt", folder / "open.txt"
        self.secret.write_text("SECRET")
        self.secret.chmod(0o600)
        self.open_file.write_text("SECRET")
        self.open_file.chmod(0o644)

    def run(self) -> dict[str, str]:
        with self._other() as (other, pid), self._doors() as (port, abstract):
            targets: dict[str, object] = {
                "agent_pid": os.getpid(),
                "other_pid": pid,
                "other_file": str(other.spec.work_dir / f"{self.mark}.py"),
                "secret_file": str(self.secret),
                "open_file": str(self.open_file),
                "command_mark": self.mark,
                "port": port,
                "abstract": abstract,
                "mark": f"{self.mark}-left",
                "key": self.key,
                "memory_mib": MEMORY_MIB,
                "disk_mib": DISK_MIB,
                "hidden_mib": HIDDEN_MIB,
                "processes": PROCESSES,
                "patience_seconds": PATIENCE_SECONDS,
            }
            found = self._attacks(targets)
            together = [name for name in BOMBS if name != FORKS]
            with ThreadPoolExecutor(len(together)) as pool:
                ended = pool.map(lambda name: (name, self._bomb(name, targets)), together)
                found |= dict(ended)
            # By itself: where processes are counted by user it leaves the others none.
            found[FORKS] = self._bomb(FORKS, targets)
        return found

    def _attacks(self, targets: dict[str, object]) -> dict[str, str]:
        # The memory that the attacks themselves need is not what they are about.
        live = self._start(targets, memory_bytes=256 * MIB)
        end = live.wait()
        if end.exit_code or end.problem:
            raise RuntimeError(f"the attacks did not run: {end} {live.output}")
        found = dict(json.loads(line) for line in live.output.splitlines() if line.startswith("["))
        left = self._left(live)
        return found | {name: "open" if name in left else "closed" for name in LEFT_BEHIND}

    def _bomb(self, name: str, targets: dict[str, object]) -> str:
        live = self._start(targets | {"bomb": name})
        end = live.wait()
        _check_it_was_tried(name, end, live.output)
        return "open" if "took it" in live.output else "closed"

    def _start(self, targets: dict[str, object], **changes: object) -> LiveRun:
        return self.runs.start({"main.py": _CODE, "targets.json": json.dumps(targets)}, **changes)

    @contextlib.contextmanager
    def _other(self) -> Iterator[tuple[LiveRun, int]]:
        """Somebody else's run on the same node, and its process."""
        code = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
        live = self.runs.start({f"{self.mark}.py": code})
        live.await_output("up")
        try:
            yield live, wait_until(lambda: _process_of(self.mark), "the other run's process is found")
        finally:
            live.run.stop()
            live.wait()

    @contextlib.contextmanager
    def _doors(self) -> Iterator[tuple[int, str]]:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket(socket.AF_UNIX) as abstract,
        ):
            abstract.bind(f"\0{self.mark}")
            abstract.listen()
            yield server.getsockname()[1], self.mark

    def _left(self, live: LiveRun) -> set[str]:
        left = set()
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            path = Path(folder) / f"{self.mark}-left"
            if path.exists():
                path.unlink()
                left.add("leave files in /tmp, /var/tmp or /dev/shm for others")
        library = ctypes.CDLL(None)
        if (number := library.shmget(self.key, 0, 0)) >= 0:
            library.shmctl(number, 0, None)
            left.add("leave System V shared memory")
        name = f"{self.mark}-left".encode()
        if (queue := library.syscall(NUMBERS["mq_open"], name, 0, 0, None)) >= 0:
            os.close(queue)
            library.mq_unlink(b"/" + name)
            left.add("leave a POSIX message queue")
        if task_processes(live.spec.attempt_id) or _process_of(f"{self.mark}-left", whole=False):
            left.add("leave a process behind")
        return left


def _check_it_was_tried(name: str, end: RunEnd, output: str) -> None:
    for mistake in ("NameError", "AttributeError", "TypeError", "SyntaxError", "KeyError"):
        if mistake in output:
            raise RuntimeError(f"{name}: {end} {output}")
    print(name, end, output[-200:], file=sys.stderr)


def _process_of(mark: str, *, whole: bool = True) -> int:
    """A process whose last argument is this program, or has the mark in it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            last = "".join(process.cmdline()[-1:])
            if (last == f"{mark}.py" if whole else mark in last) and process.pid != os.getpid():
                return process.pid
    return 0


def main() -> None:
    level, folder, image = sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:4])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    attacked = Attacked(level, folder, image)
    try:
        found = attacked.run()
        print(json.dumps({"isolation": str(attacked.runner.isolation), "found": found}), flush=True)
    finally:
        attacked.runs.end_all()
        attacked.runner.close()


if __name__ == "__main__":
    threading.current_thread().name = "attacked"
    main()
