"""What came of a function on a node: its object, its exception, or why there is neither.

Unpickling runs whatever the node has written, so nothing here is called unless the caller asked for objects.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from hivemind.errors import BadResultError
from hivemind.functions import on_node
from hivemind.functions.errors import (
    OtherPythonError,
    RemoteError,
    RemoteTraceback,
    TaskFailedError,
    WorkerSetupError,
)
from hivemind.functions.pickling import cloudpickle
from nodepool.domain.safe_text import lines

_MOST_JSON_BYTES = 1 << 20
_MOST_TEXT = 1 << 16


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result that is too large to be unpickled unasked: it lies in a file, and `load` does it all the
    same."""

    path: Path
    size_bytes: int

    def load(self) -> Any:
        """Unpickles it: whatever the node has written is run. Raises BadResultError."""
        return _unpickled(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """How results are taken: the largest that is unpickled, and where files go that are kept."""

    most_bytes: int = 1 << 30
    files: Path = Path("hivemind-results")


def value_of(folder: Path, task_id: str, taking: Taking) -> Any:
    """The function's value, out of an unpacked result; what is to stay is moved away from `folder`.

    Raises the function's own exception, or one of this package's.
    """
    told = _told(folder / on_node.OUTCOME / "outcome.json", task_id)
    if told.get("kind") == "python":
        raise OtherPythonError(
            f"{task_id}: the function was packed by {_text(told, 'packed_by')} and its node has "
            f"{_text(told, 'python')}: a function runs by the same version of Python only"
        )
    _check_python(told, task_id)
    kind = told.get("kind")
    if kind == "value":
        return _value(folder, task_id, taking)
    if kind == "file":
        return _file(folder, _text(told, "path"), task_id, taking)
    if kind == "unpicklable":
        raise RemoteError(
            f"{task_id}: the function's result, of {_text(told, 'type')}, cannot be pickled: "
            f"{_text(told, 'message')}"
        )
    if kind in ("error", "initializer", "load"):
        _raise(folder / on_node.OUTCOME, told, task_id)
    raise BadResultError(f"{task_id}: its node says of the function what this client does not know")


def _told(path: Path, task_id: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MOST_JSON_BYTES))
    except FileNotFoundError:
        raise TaskFailedError(
            f"{task_id} left no result of a function: it ended before the function did"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadResultError(f"{task_id}: what its node says of the function cannot be read") from error
    if not isinstance(told, dict):
        raise BadResultError(f"{task_id}: what its node says of the function is not understood")
    return told


def _check_python(told: dict[str, Any], task_id: str) -> None:
    if told.get("python") != on_node.python():
        raise OtherPythonError(
            f"{task_id} is a result of {_text(told, 'python')}, and this is {on_node.python()}: "
            "objects of the one are not read by the other"
        )


def _value(folder: Path, task_id: str, taking: Taking) -> Any:
    path = folder / on_node.OUTCOME / "value.pickle"
    size = path.stat().st_size if path.is_file() else 0
    if size <= taking.most_bytes:
        return _unpickled(path)
    kept = _kept(path, taking.files / task_id / "value.pickle")
    return ResultFile(kept, size)


def _file(folder: Path, name: str, task_id: str, taking: Taking) -> Path:
    source = folder / name
    if ".." in source.parts or not source.resolve().is_relative_to(folder.resolve()) or not source.exists():
        raise BadResultError(
            f"{task_id}: the file {name[:100]!r} that the function answered with is not in its result"
        )
    return _kept(source, taking.files / task_id / name)


def _kept(source: Path, target: Path) -> Path:
    if target.exists():
        # Of an earlier time that this result was asked for.
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return target


def _raise(folder: Path, told: dict[str, Any], task_id: str) -> NoReturn:
    trace = _read_text(folder / "traceback.txt")
    kind, words = _text(told, "type"), _text(told, "message")
    cause = RemoteTraceback(trace)
    if told["kind"] == "load":
        raise TaskFailedError(
            f"{task_id}: its node could not load the function ({kind}: {words})",
            hint="what a function imports has to be installed on the node, or be a module of your own",
        ) from cause
    error = _exception(folder / "error.pickle")
    if told["kind"] == "initializer":
        raise WorkerSetupError(f"{task_id}: the initializer failed ({kind}: {words})") from (error or cause)
    # What would end the caller's program, such as sys.exit there, is told and not done.
    if not isinstance(error, Exception):
        raise RemoteError(f"{task_id}: {kind}: {words}", traceback=trace) from cause
    raise error from cause


def _exception(path: Path) -> BaseException | None:
    """None where it cannot be had as an object: it was not picklable there, or is not known here."""
    try:
        error = _unpickled(path)
    except BadResultError:
        return None
    return error if isinstance(error, BaseException) else None


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except Exception as error:
        raise BadResultError(f"the result cannot be unpickled ({type(error).__name__}: {error})") from error


class _Reader(pickle.Unpickler):
    """Classes of the caller's come back as they are here: cloudpickle would give them methods anew, which
    know other globals."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        module = cloudpickle().cloudpickle
        self._classes: Mapping[str, type] = getattr(module, "_DYNAMIC_CLASS_TRACKER_BY_ID", {})
        self._known: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module.startswith("cloudpickle"):
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return partial(self._made, found)
            if name == "_class_setstate":
                return partial(self._filled, found)
        return found

    def _made(self, make: Callable[..., type], *args: Any) -> type:
        *_, tracker_id, _extra = args
        known = self._classes.get(tracker_id)
        if known is None:
            return make(*args)
        self._known.add(known)
        return known

    def _filled(self, fill: Callable[..., type], kind: type, state: Any) -> type:
        return kind if kind in self._known else fill(kind, state)


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return lines(file.read(_MOST_TEXT))
    except OSError:
        return ""


def _text(told: dict[str, Any], name: str) -> str:
    value = told.get(name)
    return lines(value)[:_MOST_TEXT] if isinstance(value, str) else ""
