"""Runs a program that ends when its supervisor does: `python leash.py SUPERVISOR_PID PROGRAM ARGUMENT…`.

The kernel keeps the promise (Linux: PR_SET_PDEATHSIG, which outlives the exec); elsewhere the next
start finds what was left by its pid files. A program of its own and not a `preexec_fn`, because the
supervisor has threads and Python code between fork and exec may hang then.
None of them leaves a core file: it would hold their secrets.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    supervisor = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have died before the promise was made.
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the supervisor's own argv, no shell wanted


if __name__ == "__main__":
    main()
