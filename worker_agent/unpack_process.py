"""The process that forks for each package, and what the fork does: it takes limits and another user upon
itself, and then unpacks into the empty working directory.

Started by `unpacking.py` without site packages, with nothing of the agent's memory or environment. Requests
and answers are JSON objects.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits
from worker_agent.runners.launcher import serve
from worker_agent.unpack import unpack

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_MEMORY_BYTES = 1 << 29
_CPU_SECONDS = 120
_OPEN_FILES = 32
_NICENESS = 10


# Names of older ZIPs; the other user may not be able to read where this interpreter lives.
codecs.lookup("cp437")


def main(channel: str) -> None:
    serve(int(channel), _unpack)


def _unpack(request: bytes, answer_to: int, package: int) -> None:
    """In the fork, which ends with it."""
    told = json.loads(request)
    limits = PackageLimits(**told["limits"])
    os.setsid()
    os.chdir(told["folder"])
    _harden(told, limits)
    if os.getppid() != told["parent"]:
        os._exit(1)  # it died before it could take this process with it
    os.write(answer_to, json.dumps(_answer(told, package, limits)).encode())
    os._exit(0)


def _answer(request: dict[str, Any], package: int, limits: PackageLimits) -> dict[str, Any]:
    try:
        entry = unpack(
            package, Path(), limits, max_disk_bytes=request["max_disk_bytes"], runs=request["runs"]
        )
    except InvalidPackageError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"unpacking the package takes more than {_MEMORY_BYTES >> 20} MiB of memory"}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"refused": "a file of the package is larger than it may be"}
        return {"errno": error.errno or errno.EIO}  # the node's
    except Exception as error:  # noqa: BLE001 - told, not printed: nobody reads this process's stderr
        return {"failed": repr(error)[:300]}
    return {"entry": entry}


def _harden(request: dict[str, Any], limits: PackageLimits) -> None:
    libc = ctypes.CDLL(None)
    os.nice(_NICENESS)
    user = request["user"]
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # After the change of user, which takes it back.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, limits.max_unpacked_bytes),
    ):
        _, hard = resource.getrlimit(what)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # Of CPU time the kernel tells the end by a signal of its own only below the hard limit.
        resource.setrlimit(what, (least, hard if what == resource.RLIMIT_CPU else least))
