"""Runs on a node: the entry of a package that `hivemind.functions.packing` made, and no part of the client.

It is sent as text and run by the node's own Python, whatever its version: the standard library only, and no
import of ours. What the package brought is removed before the function is called, so that a result has what
the function left and nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
import pickle
import shutil
import sys
import traceback
from pathlib import Path, PurePath
from typing import Any

PACKED, OUTCOME = Path("_hivemind"), Path("_hivemind_outcome")
FAILED, OTHER_PYTHON = 1, 78
_MOST_TEXT = 1 << 16


class InitializerError(Exception):
    """What prepares a worker failed; the cause says how."""


def main() -> int:
    about = json.loads((PACKED / "about.json").read_text(encoding="utf-8"))
    OUTCOME.mkdir()
    if about["magic"] != importlib.util.MAGIC_NUMBER.hex():
        return other_python(about["python"])
    try:
        function, item = load(about)
    except Exception as error:
        return failed("load", error)
    finally:
        shutil.rmtree(str(PACKED), ignore_errors=True)
        Path(__file__).unlink()
    try:
        value = call(about["kind"], function, item)
    except InitializerError as error:
        return failed("initializer", error.__cause__ or error)
    except BaseException as error:
        return failed("error", error)
    return succeeded(value)


def load(about: dict[str, Any]) -> tuple[Any, Any]:
    """Cloudpickle as the client has it, then the function, then the one item that this run is of."""
    sys.path.insert(0, str(PACKED.resolve()))
    import cloudpickle  # noqa: F401

    del sys.path[0]
    for name, lines in about["sources"].items():
        # Tracebacks show the caller's lines, which are on no disk here. Without a time nobody looks there.
        linecache.cache[name] = (len(lines), None, lines, name)
    with (PACKED / "function.pickle").open("rb") as file:
        function = pickle.load(file)
    index = int(os.environ.get("HIVEMIND_INDEX", "0"))
    with (PACKED / "places").open("rb") as file:
        file.seek(8 * index)
        begin = int.from_bytes(file.read(8), "little")
    with (PACKED / "items").open("rb") as file:
        file.seek(begin)
        return function, pickle.load(file)


def call(kind: str, function: Any, item: Any) -> Any:
    if kind == "item":
        return function(item)
    if kind == "call":
        args, kwargs = item
        return function(*args, **kwargs)
    # Of an executor: what prepares its workers is packed once, and each item brings its function.
    if function is not None:
        initializer, initargs = function
        try:
            initializer(*initargs)
        except BaseException as error:
            raise InitializerError from error
    called, calls, is_chunk = item
    values = [called(*args, **kwargs) for args, kwargs in calls]
    return values if is_chunk else values[0]


def succeeded(value: object) -> int:
    import cloudpickle

    path = file_of(value)
    if path:
        return tell(0, kind="file", path=path)
    try:
        with (OUTCOME / "value.pickle").open("wb") as file:
            cloudpickle.dump(value, file)
    except Exception as error:
        (OUTCOME / "value.pickle").unlink()
        what = f"{type(value).__module__}.{type(value).__qualname__}"
        sys.stderr.write(f"the function's result, of {what}, cannot be pickled: {text_of(error)}\n")
        return tell(FAILED, kind="unpicklable", type=what, message=text_of(error))
    return tell(0, kind="value")


def file_of(value: object) -> str:
    """The path below the working directory that the function answers with; empty where it is no such path."""
    if not isinstance(value, PurePath):
        return ""
    here, there = Path().resolve(), Path(value).resolve()
    return there.relative_to(here).as_posix() if here in there.parents and there.exists() else ""


def failed(kind: str, error: BaseException) -> int:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == main.__code__.co_filename:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    sys.stderr.write(text)
    (OUTCOME / "traceback.txt").write_text(text[-_MOST_TEXT:], encoding="utf-8", errors="replace")
    data = pickled(error)
    if data:
        (OUTCOME / "error.pickle").write_bytes(data)
    return tell(FAILED, kind=kind, type=type(error).__qualname__, message=text_of(error))


def pickled(error: BaseException) -> bytes:
    """Empty where it would not come back as what it is: then it is told in words."""
    try:
        import cloudpickle

        data = cloudpickle.dumps(error.with_traceback(None))
        return data if isinstance(pickle.loads(data), type(error)) else b""
    except Exception:
        return b""


def text_of(error: BaseException) -> str:
    try:
        return str(error)[:_MOST_TEXT]
    except Exception:
        return "(it has no text)"


def other_python(packed_by: str) -> int:
    words = f"the function was packed by {packed_by}, and this node has {python()}: "
    sys.stderr.write(words + "a function runs by the same version of Python only\n")
    return tell(OTHER_PYTHON, kind="python", packed_by=packed_by)


def python() -> str:
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def tell(code: int, **outcome: str) -> int:
    text = json.dumps({"python": python(), **outcome}, sort_keys=True)
    (OUTCOME / "outcome.json").write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
