"""A function and its items become one package: for all of them one upload, and each run takes its own item.

    main.py                      hivemind/functions/on_node.py
    _hivemind/about.json         by which Python, and what kind of call
    _hivemind/function.pickle
    _hivemind/items              one after the other
    _hivemind/places             where each begins: 8 bytes, little end first
    _hivemind/cloudpickle/       as it is installed here, compiled: nodes have an interpreter and nothing else

The layout is read by `on_node.py` of the same package and by nobody else.
"""

from __future__ import annotations

import importlib.util
import io
import json
import marshal
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

from hivemind.errors import InvalidInputError, RefusedError
from hivemind.functions import on_node
from hivemind.functions.pickling import (
    check_function,
    cloudpickle,
    dumps,
    name_of,
    own_modules_by_value,
    sources_of,
)
from nodepool.domain.tasks.arrays import MAX_TASKS

# What a result's comparison looks at: what is unpickled, and not the words of a traceback.
COMPARED = (f"{on_node.OUTCOME}/outcome.json", f"{on_node.OUTCOME}/value.pickle")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_PYC_HEAD_BYTES = 12
# A pool takes what unpacks to so much for a bomb; zeros of honest arrays are sent as they are.
_MOST_RATIO = 100


@dataclass(frozen=True, slots=True)
class FunctionWork:
    """What is to be run: a function with its items, or the calls of an executor."""

    kind: (
        str  # item: function(item); call: function(*args, **kwargs); executor: each item brings its function
    )
    function: Any
    items: Sequence[Any]
    name: str
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_map(cls, function: Callable[..., Any], items: Iterable[Any]) -> FunctionWork:
        """Raises InvalidInputError."""
        checked = check_function(function)
        try:
            each = iter(items)
        except TypeError:
            raise InvalidInputError(
                f"items must be something to go through, such as a list, not {type(items).__name__}"
            ) from None
        # Of one without an end, too, no more is asked than shows that it is too long.
        found = list(islice(each, MAX_TASKS + 1))
        if not found:
            raise InvalidInputError("there are no items: a job has a task for each, and at least one")
        if len(found) > MAX_TASKS:
            raise InvalidInputError(
                f"these are more items than the {MAX_TASKS:,} tasks of a job: make items of several"
            )
        return cls("item", checked, found, name_of(checked), sources_of(checked))

    @classmethod
    def of_call(
        cls, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> FunctionWork:
        checked = check_function(function)
        calls = [(tuple(args), dict(kwargs))]
        return cls("call", checked, calls, name_of(checked), sources_of(checked))


@contextmanager
def packed(work: FunctionWork) -> Iterator[Path]:
    """The package as a file, as long as it is needed. Raises InvalidInputError, naming what cannot be
    pickled."""
    with own_modules_by_value(), tempfile.TemporaryFile() as items:
        function = dumps(work.function, f"the function {work.name}")
        places = _write_items(work, items)
        with tempfile.TemporaryDirectory(prefix="hivemind-") as folder:
            path = Path(folder, "package.zip")
            try:
                _write(path, work, function, items, places)
            except OSError as error:
                raise RefusedError(f"the package cannot be written: {error.strerror or error}") from error
            yield path


def _write_items(work: FunctionWork, file: IO[bytes]) -> bytes:
    places = bytearray()
    for number, item in enumerate(work.items):
        places += file.tell().to_bytes(8, "little")
        file.write(item if isinstance(item, Pickled) else dumps(item, _called(work, number)))
    return bytes(places)


class Pickled(bytes):
    """An item that was pickled before: an executor refuses what cannot be as soon as it is given."""

    __slots__ = ()


def _called(work: FunctionWork, number: int) -> str:
    return f"item {number} of {work.name}" if work.kind == "item" else f"what {work.name} is called with"


def _write(path: Path, work: FunctionWork, function: bytes, items: IO[bytes], places: bytes) -> None:
    about = {
        "python": on_node.python(),
        "magic": importlib.util.MAGIC_NUMBER.hex(),
        "kind": work.kind,
        "sources": dict(work.sources),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.writestr(_entry("main.py"), Path(on_node.__file__).read_bytes())
        archive.writestr(_entry(f"{on_node.PACKED}/about.json"), json.dumps(about, sort_keys=True))
        archive.writestr(_entry(f"{on_node.PACKED}/places"), places)
        for name, code in _compiled():
            archive.writestr(_entry(f"{on_node.PACKED}/{name}"), code)
        _write_large(archive, f"{on_node.PACKED}/function.pickle", io.BytesIO(function))
        _write_large(archive, f"{on_node.PACKED}/items", items)


def _write_large(archive: zipfile.ZipFile, name: str, source: IO[bytes]) -> None:
    size = source.seek(0, os.SEEK_END)
    entry = _entry(name)
    entry.file_size = size
    source.seek(0)
    packer, packed_bytes = zlib.compressobj(1, zlib.DEFLATED, -15), 0
    while chunk := source.read(1 << 20):
        packed_bytes += len(packer.compress(chunk))
    if size > _MOST_RATIO * (packed_bytes + len(packer.flush())):
        entry.compress_type = zipfile.ZIP_STORED
    source.seek(0)
    with archive.open(entry, "w") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_FIXED_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100644 << 16
    return entry


@cache
def _compiled() -> tuple[tuple[str, bytes], ...]:
    """Compiled here once, and not by each run again: a package runs by the same version of Python only."""
    folder = Path(cloudpickle().__file__).parent
    found = []
    for path in sorted(folder.glob("*.py")):
        name = f"cloudpickle/{path.name}"
        code = compile(path.read_bytes(), name, "exec", dont_inherit=True)
        data = importlib.util.MAGIC_NUMBER + bytes(_PYC_HEAD_BYTES) + marshal.dumps(code)
        found.append((f"{name}c", data))
    return tuple(found)
