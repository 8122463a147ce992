"""Where a word can be found of a pool that runs: files, logs, database, broker, processes, engine."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import docker
import psutil

from tests.support.databases import sqlite_file
from tests.support.pool import FLOWER_LOGIN, TestPool

_FLOWER_PAGES = ("/", "/tasks", "/api/tasks", "/api/workers?status=1", "/broker")


def traces(pool: TestPool, word: str, engine: docker.DockerClient | None = None) -> list[str]:
    """Each place that has the word; empty where none has."""
    places: list[tuple[str, bytes]] = [
        *_files(pool),
        *_processes(),
        ("the broker", everything_in(pool.valkey.client()).encode()),
        ("a dump of the database", _dump(pool).encode()),
        *(_flower(pool) if pool.options.flower else ()),
        *(_containers(engine) if engine is not None else ()),
    ]
    forms = (word.encode(), word.encode().hex().encode(), b64encode(word.encode()).rstrip(b"="))
    return [place for place, content in places if any(form in content for form in forms)]


def _files(pool: TestPool) -> Iterator[tuple[str, bytes]]:
    for path in pool.folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield str(path), path.read_bytes()


def _processes() -> Iterator[tuple[str, bytes]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield f"the command line of {process.pid}", "\0".join(process.cmdline()).encode()


def _dump(pool: TestPool) -> str:
    with contextlib.closing(sqlite3.connect(sqlite_file(pool.folder / "users.db"))) as database:
        return "\n".join(database.iterdump())


def _flower(pool: TestPool) -> Iterator[tuple[str, bytes]]:
    login = b64encode(":".join(FLOWER_LOGIN).encode()).decode()
    for page in _FLOWER_PAGES:
        address = f"http://127.0.0.1:{pool.flower_port}{page}"
        request = urllib.request.Request(address, headers={"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            yield f"Flower's {page}", answer.read()


def _containers(engine: docker.DockerClient) -> Iterator[tuple[str, bytes]]:
    for container in engine.containers.list(all=True, ignore_removed=True):
        yield f"docker inspect {container.name}", repr(container.attrs).encode()


def everything_in(broker: Any) -> str:
    readers = {
        "string": broker.get,
        "hash": broker.hgetall,
        "set": broker.smembers,
        "list": lambda key: broker.lrange(key, 0, -1),
        "zset": lambda key: broker.zrange(key, 0, -1),
        "stream": broker.xrange,
    }
    return repr([readers[_text(broker.type(key))](key) for key in broker.scan_iter()])


def _text(word: str | bytes) -> str:
    return word if isinstance(word, str) else word.decode()
