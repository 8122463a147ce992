"""A PostgreSQL server of a test's own, which it may kill, stop and fill; the shared one is everybody's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import psycopg

from tests.support.environment import free_port, not_here
from tests.support.processes import TestProcess
from tests.support.waiting import wait_until

MOST_CONNECTIONS = 40


def binaries() -> Path:
    """The newest server's folder; skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: int(it.parent.name))
    if not found:
        not_here("PostgreSQL is not installed: scripts/with_services.sh installs it")
    return found[-1]


class PostgresServer:
    """On a loopback port. As root it runs as the user `postgres`, for it refuses to run as root."""

    def __init__(self, folder: Path, *, connections: int = MOST_CONNECTIONS) -> None:
        self.folder, self.port = folder, free_port()
        self._data = folder / "data"
        folder.mkdir(parents=True)
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        argv = [
            *self._as, str(binaries() / "postgres"), "-D", str(self._data), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}",
            "-c", f"max_connections={connections}",
        ]  # fmt: skip
        self.process = TestProcess(
            "postgres", argv, {"PATH": os.environ["PATH"]}, folder, folder.parent / "postgres.log"
        )

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        if not self._data.exists():
            subprocess.run(
                [*self._as, str(binaries() / "initdb"), "--no-sync", "--pgdata", str(self._data),
                 "--auth", "trust", "--username", "postgres", "--encoding", "UTF8", "--locale", "C.UTF-8"],
                cwd=self.folder, check=True, capture_output=True,
            )  # fmt: skip
        self.process.start()
        wait_until(self._comes, "PostgreSQL answers", period=0.1)

    def _comes(self) -> bool:
        if not self.process.is_running:  # children of one that was killed have not ended yet
            self.process.start()
        return self.answers()

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True,
            connect_timeout=3,
        )  # fmt: skip

    def kill(self) -> None:
        """As `pg_ctl stop -m immediate`: its children end with it, which SIGKILL would leave behind."""
        if self.process.is_running:
            self.process.send(signal.SIGQUIT)
            self.process.process.wait(60)

    def end(self, number: signal.Signals) -> None:
        """SIGINT: fast; SIGQUIT: immediate; SIGKILL: its children end when they notice."""
        self.process.send(number)
        self.process.process.wait(60)

    def freeze(self) -> None:
        self._all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._all(signal.SIGCONT)

    def close(self) -> None:
        if self.process.is_running:
            self.thaw()
            self.kill()

    def _all(self, number: signal.Signals) -> None:
        if not self.process.is_running:
            return
        postmaster = psutil.Process(self.process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
