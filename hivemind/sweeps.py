"""What the tasks of an array differ by, as people write it: a range of indices, lines of a file, a matrix.

Everything is read and checked before anything is sent. It knows no connection.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hivemind.errors import InvalidInputError
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.tasks.arrays import (
    MAX_INDEX,
    MAX_ITEMS_BYTES,
    MAX_TASKS,
    ArrayInputs,
    check_count,
    check_names,
    expand,
    item_line,
)
from nodepool.domain.tasks.run_inputs import RunInputs

# Whose values no array would take; quotes may double what is in them.
_MOST_FILE_BYTES = 2 * MAX_ITEMS_BYTES
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_SPAN = re.compile(r"(-?\d{1,9})-(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Indices, and the values of each task in the order of the names. Raises InvalidInputError."""

    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...] = field(repr=False)

    def __post_init__(self) -> None:
        try:
            check_names(self.names)
            check_count(len(self.rows))
        except InvalidError as error:
            raise InvalidInputError(str(error)) from error

    def __len__(self) -> int:
        return len(self.rows)

    def items(self) -> bytes:
        """As they are sent. Raises InvalidInputError."""
        data = "".join(item_line(index, values) for index, values in self.rows).encode()
        if len(data) > MAX_ITEMS_BYTES:
            raise InvalidInputError(
                f"the values of all tasks have {len(data)} bytes, over an array's {MAX_ITEMS_BYTES}: "
                "put long ones into files of the package"
            )
        return data

    def check(self, inputs: RunInputs) -> bytes:
        """That every task can be given its own. What is sent of it; raises InvalidInputError."""
        items = self.items()
        try:
            expand(items, ArrayInputs.of(self.names, inputs))
        except InvalidError as error:
            raise InvalidInputError(str(error)) from error
        return items


def of_range(text: str) -> Sweep:
    """`0-199`, `1,2,5-9`. Raises InvalidInputError."""
    indices: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise InvalidInputError(
                f"{part.strip()!r} is no range of indices: write 0-199, or 1,2,5-9, each 0 to {MAX_INDEX}"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise InvalidInputError(f"the range {part.strip()} ends before it begins")
        _check_size(len(indices) + last - first + 1)
        indices += range(first, last + 1)
    return Sweep((), tuple((index, ()) for index in _apart(indices)))


def _apart(indices: Sequence[int]) -> Sequence[int]:
    seen: set[int] = set()
    for index in indices:
        if index in seen:
            raise InvalidInputError(f"index {index} is there twice: each task of an array has its own")
        seen.add(index)
    return indices


def of_lines(path: Path) -> Sweep:
    """A CSV file: its header has the names, and each line after it is a task. Raises InvalidInputError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
        if len(data) > _MOST_FILE_BYTES:
            raise InvalidInputError(
                f"{path} has more than {_MOST_FILE_BYTES} bytes: leave out columns that no argument names"
            )
        # Spreadsheets write a mark before the first name.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8: save it as CSV in UTF-8") from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = tuple(name.strip() for name in next(lines, ()))
        if not names:
            raise InvalidInputError(f"{path} is empty: its first line has the names of the columns")
        _check_comma(path, names)
        rows = list(_rows(path, names, lines))
    except csv.Error as error:
        raise InvalidInputError(f"{path}, line {lines.line_num}: {error}") from error
    if not rows:
        raise InvalidInputError(f"{path} has a header and no lines after it: there is nothing to run")
    return Sweep(names, tuple(enumerate(rows)))


def _check_comma(path: Path, names: Sequence[str]) -> None:
    """Spreadsheets write another mark where the comma is that of numbers."""
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            raise InvalidInputError(f"{path} has {word} between its columns: save it with commas")


def _rows(path: Path, names: Sequence[str], lines: Iterator[list[str]]) -> Iterator[tuple[str, ...]]:
    count = 0
    for line in lines:
        if not line:
            continue
        if len(line) != len(names):
            raise InvalidInputError(
                f"{path}, line {_line_of(lines)}: {len(line)} values, and the header has {len(names)} names "
                f"({', '.join(names)})"
            )
        count += 1
        _check_size(count)
        yield tuple(line)


def _line_of(lines: Iterator[list[str]]) -> int:
    number: int = lines.line_num  # type: ignore[attr-defined]
    return number


def parts(text: str) -> list[str]:
    """Of `lr=0.1 seed=1-10` in one word. A blank in a value is that value's."""
    words = text.split()
    return words if words and all("=" in word for word in words) else [text]


def of_matrix(words: Iterable[str]) -> Sweep:
    """`lr=0.1,0.01`, `seed=1-10`: every combination, the last name the fastest. Raises InvalidInputError."""
    names: list[str] = []
    values: list[list[str]] = []
    for word in words:
        name, mark, text = word.partition("=")
        if not mark or not text:
            raise InvalidInputError(f"{word!r} is no part of a matrix: write lr=0.1,0.01 or seed=1-10")
        names.append(name.strip())
        values.append(spread(text))
    return combined(names, values)


def spread(text: str) -> list[str]:
    """The values of `0.1,0.01` and of `1-10`."""
    return [one for part in text.split(",") for one in _spanned(part.strip())]


def combined(names: Iterable[str], values: Sequence[Sequence[str]]) -> Sweep:
    """Every combination of each name's values, the last name the fastest. Raises InvalidInputError."""
    _check_size(math.prod(map(len, values)))
    return Sweep(tuple(names), tuple(enumerate(itertools.product(*values))))


def of_values(values: Mapping[str, Iterable[object]]) -> Sweep:
    """`{"lr": [0.1, 0.01], "seed": range(10)}`: every combination, the last name the fastest. Raises
    RefusedError."""
    listed: list[list[str]] = []
    for name, each in values.items():
        if not isinstance(name, str) or isinstance(each, str | bytes) or not isinstance(each, Iterable):
            raise InvalidInputError(f"{name!r} takes a list of values, not {each!r:.60}")
        # Of one without an end, too, no more is asked than shows that it is too long.
        listed.append([str(value) for value in itertools.islice(each, MAX_TASKS + 1)])
        _check_size(len(listed[-1]))
    return combined(values, listed)


def _spanned(text: str) -> list[str]:
    found = _SPAN.fullmatch(text)
    if found is None or int(found[2]) < int(found[1]):
        return [text]
    first, last = int(found[1]), int(found[2])
    _check_size(last - first + 1)
    return [str(number) for number in range(first, last + 1)]


def _check_size(count: int) -> None:
    if count > MAX_TASKS:
        raise InvalidInputError(f"an array has 1 to {MAX_TASKS} tasks, not {count}")
