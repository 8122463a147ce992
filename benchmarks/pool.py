"""`hivemind up` on a folder of its own, for as long as a benchmark needs it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil

from hivemind import NodePoolClient
from local_pool.plan import STRANGERS_OPTION
from nodepool.settings import Settings

READY_SECONDS = 90.0
STOP_SECONDS = 60.0
HALT_TRIES = 20
SHOWN_LOG_LINES = 15
# One user sends in a minute what many would; it is the pool's own speed that is measured.
_NO_LIMITS = {
    f"{name}_PER_MINUTE": str(10**7)
    for name in ("READS", "FETCHES", "WATCHES", "CHANGES", "SUBMITS", "NODE_REGISTRATIONS", "NODE_CALLS")
} | {"CALLS_PER_MINUTE_PER_ADDRESS": str(10**8)}


class BenchmarkError(RuntimeError):
    """A benchmark could not be taken; its message says why."""


class Pool:
    """Use in a `with` statement: ready inside of it, with a user logged in, and gone after it."""

    def __init__(
        self,
        data_dir: Path,
        *,
        agents: int,
        runner: str,
        image: str = "",
        flower: bool,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` of the pool besides those of every benchmark, by their names in the environment."""
        self.data_dir = data_dir
        self.address = f"127.0.0.1:{_free_port()}"
        self.token = ""
        self._ready = threading.Event()
        self._output: list[str] = []
        data_dir.mkdir(mode=0o711)
        argv = [
            sys.executable, "-m", "hivemind", "up", "--data-dir", str(data_dir),
            "--grpc-port", self.address.rpartition(":")[2], "--flower-port", "0",
            "--agents", str(agents), "--runner", runner, "--flower" if flower else "--no-flower",
            # Its tasks are the benchmark's own, though those of another account.
            STRANGERS_OPTION,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            argv,
            cwd=data_dir,
            env={**_environment(image), **(settings or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the benchmark, which then stops the pool.
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Pool:
        try:
            self._wait_ready()
            with NodePoolClient(self.address) as client:
                password = secrets.token_urlsafe(16)
                client.register("bench", password)
                client.login("bench", password)
                self.token = client.token
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean = self.stop()
        if kind is None and not clean:
            raise BenchmarkError(f"the pool did not stop cleanly:\n{self.logs()}")

    def stop(self) -> bool:
        """Whether it stopped cleanly."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(5)
        return code == 0

    def slots(self, task_memory_mb: int) -> int:
        """How many tasks the only node runs at once."""
        with NodePoolClient(self.address, token=self.token) as client:
            (node,) = client.nodes()
        return max(1, min(node.max_tasks, node.memory_gb * 1024 // task_memory_mb))

    @property
    def broker_url(self) -> str:
        """Of the embedded Valkey, with the pool's own user."""
        folder = self.data_dir / "valkey"
        password = (folder / "password").read_text(encoding="utf-8").strip()
        lines = (folder / "valkey.conf").read_text(encoding="utf-8").splitlines()
        port = next(line.split()[1] for line in lines if line.startswith("port "))
        return f"redis://pool:{password}@127.0.0.1:{port}/0"

    @contextmanager
    def dispatcher_halted(self, still_serves: Callable[[], bool]) -> Iterator[None]:
        """Nothing is placed or swept in the meantime.

        A process that is halted inside a transaction blocks the database for all: `still_serves` tells,
        and then it is let go on and halted a moment later.
        """
        halted = [part for part in self.processes() if "dispatcher" in part.cmdline()]
        if not halted:
            raise BenchmarkError("the pool has no dispatcher")
        try:
            for _ in range(HALT_TRIES):
                _each(halted, psutil.Process.suspend)
                if still_serves():
                    break
                _each(halted, psutil.Process.resume)
                time.sleep(0.3)
            else:
                raise BenchmarkError("the dispatcher could not be halted between two transactions")
            yield
        finally:
            _each(halted, psutil.Process.resume)

    def logs(self) -> str:
        """What the pool said last, and the ends of its parts' logs."""
        texts = ["\n".join(self._output[-SHOWN_LOG_LINES:])]
        for log in sorted((self.data_dir / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
            texts.append("\n".join((f"--- {log.stem}", *lines)))
        return "\n".join(texts)

    def processes(self) -> list[psutil.Process]:
        """All that it consists of now."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready.wait(0.1):
            if self._process.poll() is not None:
                raise BenchmarkError(f"`hivemind up` ended:\n{self.logs()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the pool was not ready within {READY_SECONDS:g} s:\n{self.logs()}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.append(line.rstrip())
            if line.strip() == "ready":
                self._ready.set()


def _each(parts: list[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for part in parts:
        with suppress(psutil.NoSuchProcess):
            act(part)


def _environment(image: str) -> dict[str, str]:
    """Settings of another pool stay out of this one."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.lower() in Settings.model_fields or name.startswith(("HIVEMIND_", "FLOWER_", "CELERY_")))
    }
    # Enough for every task of a benchmark, and no tasks but those.
    own = {"NEWCOMER_BALANCE_CPT": str(10**12), "PROBE_HOURS": "0", **_NO_LIMITS}
    return {**kept, "LOG_LEVEL": "INFO", **own, **({"DEFAULT_IMAGE": image} if image else {})}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """SIGTERM and SIGHUP end like Ctrl-C, so that everything is stopped on the way out."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
