"""The process that tests.support.forking starts: it imports what the pool's parts import, and forks them.

`python -P -m tests.support.fork_server DESCRIPTOR`: a socket that says what to start and asks how it ended.
With a second descriptor, of a socket that listens, whoever connects there gets such a process of its own,
forked from this one. This ends with the socket. It must hold no thread and no connection, and know no
setting: each part has its own environment, and all that is read from it when a module is imported is imported
by the part itself.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 17
_PRELOADED = (
    "celery.app.base",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.worker.consumer",
    "dispatcher.context",
    "dispatcher.placing.node_events",
    "dispatcher.placing.placement_loop",
    "dispatcher.push.outcomes",
    "dispatcher.push.pusher",
    "dispatcher.sweep.sweeper",
    "gateway.context",
    "gateway.listening",
    "gateway.server",
    "gateway.usecases.bootstrap_admin",
    "kombu.transport.redis",
    "nodepool.hardening",
    "nodepool.messaging.publisher",
    "nodepool.observability",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "worker_agent.agent",
    "worker_agent.capacity",
    "worker_agent.logs",
    "worker_agent.options",
    "worker_agent.runners.docker",
    "worker_agent.runners.process",
    "worker_agent.worker_service",
)
# Of an agent's look at its machine: a tenth of what it takes in life.
_BENCHMARK_SECONDS = 0.03
# Its package reads the environment and makes the Celery app: not here, and once in each dispatcher.
_STAND_IN = "dispatcher"


def preload() -> None:
    package = types.ModuleType(_STAND_IN)
    package.__path__ = [str(Path(__file__).resolve().parents[2] / _STAND_IN)]
    sys.modules[_STAND_IN] = package
    for name in _PRELOADED:
        importlib.import_module(name)
    del sys.modules[_STAND_IN]
    capacity = sys.modules["worker_agent.capacity"]
    briefly = functools.partial(capacity.benchmark_rounds_per_second, seconds=_BENCHMARK_SECONDS)
    setattr(capacity, "benchmark_rounds_per_second", briefly)  # noqa: B010 - no type checker knows the module
    # What is never collected is never written to, and stays shared.
    gc.collect()
    gc.freeze()


def share(control: socket.socket, listening: socket.socket) -> socket.socket:
    """Returns only in a child, with the socket of somebody who has connected."""
    # Nobody asks how these end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([control, listening], [], [])
        if control in ready:
            os._exit(0)
        connected, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            listening.close()
            return connected
        connected.close()


def serve(control: socket.socket) -> dict[str, Any]:
    """Returns only in a child, with what it is to be."""
    while True:
        data = control.recv(MOST_BYTES)
        if not data:
            os._exit(0)
        wanted = json.loads(data)
        if "argv" in wanted:
            pid = os.fork()
            if pid == 0:
                control.close()
                return dict(wanted)
            answer: object = pid
        else:
            # As subprocess does: a process that has ended keeps its id until somebody asks how.
            ended, status = os.waitpid(wanted["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        control.send(json.dumps(answer).encode())


def become(wanted: dict[str, Any]) -> str:
    """What a process has from its start; the module that it is to run."""
    os.setsid()
    os.chdir(wanted["cwd"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, theirs)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(wanted["env"])
    module, *arguments = wanted["argv"]
    sys.argv = [module, *arguments]
    return str(module)


if __name__ == "__main__":
    preload()
    line, *others = (socket.socket(fileno=int(word)) for word in sys.argv[1:])
    if others:
        line = share(line, others[0])
    runpy.run_module(become(serve(line)), run_name="__main__", alter_sys=True)
