"""Objects become bytes for a node, or a refusal that names what cannot go there. Nothing is sent by then.

What the caller wrote in modules of its own goes along as it is (by value): a node has an interpreter, and
none of the caller's files. What is installed here is named, and has to be installed there.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hivemind.errors import ConfigError, InvalidInputError

# Registering is of the whole process.
_LOCK = threading.RLock()
_OURS = frozenset({"hivemind", "nodepool"})
_MOST_SOURCE_LINES = 20_000


def cloudpickle() -> Any:
    """The module, which only functions need."""
    try:
        import cloudpickle as module  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "functions as tasks need cloudpickle", hint="pip install 'hivemind-nodepool[client]'"
        ) from error
    return module


@contextmanager
def own_modules_by_value() -> Iterator[None]:
    """While it lasts, what is pickled brings the caller's own modules along."""
    pickler = cloudpickle()
    with _LOCK:
        there = pickler.list_registry_pickle_by_value()
        added = [module for module in own_modules() if module.__name__ not in there]
        for module in added:
            pickler.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                pickler.unregister_pickle_by_value(module)


def own_modules() -> tuple[ModuleType, ...]:
    """Modules that were installed nowhere: files of the caller's, which a node does not have."""
    return _own_modules(frozenset(sys.modules))


@functools.lru_cache(maxsize=1)
def _own_modules(names: frozenset[str]) -> tuple[ModuleType, ...]:
    installed = _installed()
    found = ((name, sys.modules.get(name)) for name in sorted(names))
    return tuple(
        module
        for name, module in found
        if isinstance(module, ModuleType)
        and module.__name__ == name != "__main__"
        and name.partition(".")[0] not in _OURS
        and _is_own(getattr(module, "__file__", None), installed)
    )


def _is_own(file: object, installed: Iterable[str]) -> bool:
    if not isinstance(file, str) or not file.endswith(".py"):
        return False
    path = os.path.normcase(file)
    return not path.startswith(tuple(installed)) and "-packages/" not in Path(file).as_posix()


def _installed() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_paths()[name] for name in names} | {site.getusersitepackages()}
    return tuple(os.path.normcase(folder) + os.sep for folder in folders)


def dumps(value: Any, what: str) -> bytes:
    """Raises InvalidInputError that begins with `what`."""
    try:
        data: bytes = cloudpickle().dumps(value)
    except Exception as error:
        raise InvalidInputError(f"{what} cannot be pickled: {_culprit(value)}{error}") from error
    return data


def check_function(function: Any) -> Callable[..., Any]:
    if not callable(function):
        raise InvalidInputError(f"a function is needed, not {_kind(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidInputError(
            f"{name_of(function)} is a coroutine function, which needs an event loop: give a plain function, "
            "such as one that calls asyncio.run"
        )
    if inspect.isgeneratorfunction(function):
        raise InvalidInputError(
            f"{name_of(function)} is a generator, which cannot be sent back: let it return a list"
        )
    return function  # type: ignore[no-any-return]


def name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", "") or type(function).__qualname__
    return str(name).replace("<locals>.", "")


def sources_of(function: Any) -> dict[str, list[str]]:
    """The lines that a traceback on the node is shown with."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    lines = linecache.getlines(code.co_filename)
    return {code.co_filename: lines} if 0 < len(lines) <= _MOST_SOURCE_LINES else {}


def _culprit(value: Any) -> str:
    """Which variable that a function uses is to blame."""
    code = getattr(value, "__code__", None)
    if code is None:
        return ""
    cells = zip(code.co_freevars, value.__closure__ or (), strict=False)
    used = [(name, cell.cell_contents) for name, cell in cells if _is_full(cell)]
    used += [(name, value.__globals__[name]) for name in code.co_names if name in value.__globals__]
    for name, each in used:
        try:
            cloudpickle().dumps(each)
        except Exception:  # noqa: BLE001
            return f"it uses {name!r}, of {_kind(each)}: "
    return ""


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
