"""Starts a program of the package, or says in one line which extra it lacks.

For the commands' own `__main__`. Imports nothing but the standard library, since anything else may be what
is missing, and knows no program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

DISTRIBUTION = "hivemind-nodepool"
EXIT_USAGE = 2
_OURS = frozenset({"hivemind", "nodepool", "worker_agent"})


def start(program: str, function: str, extra: str) -> int:
    """Its exit code. `function` is "module:name", and is imported here."""
    module, name = function.split(":")
    try:
        main: Callable[[], int] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if not (problem := missing(error, extra)):
            raise
        print(f"{program}: {problem}", file=sys.stderr)
        return EXIT_USAGE
    return main()


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """What to install; empty where that would not help: the module is our own, or Python's."""
    top = (error.name or "").partition(".")[0]
    if not top or top in _OURS or top in sys.stdlib_module_names:
        return ""
    return f"the package {top!r} is not installed; run: pip install '{DISTRIBUTION}[{extra}]'"
