"""Arrays: many tasks out of one, each with an index and values of its own in its arguments and environment.

Pure. One rule for the client, who is told before anything is sent, and for the pool. `{name}` in an argument
or the value of a variable is the task's value of that name, `{index}` its index; `{{` and `}}` are braces.

Between them goes one line of JSON for each task: its index, then its values in the order of the names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.run_inputs import RunInputs, arguments_to_json, mapping_to_json

MAX_TASKS = 100_000
MAX_INDEX = 999_999_999
MAX_NAMES = 64
MAX_ITEMS_BYTES = 32 << 20
INDEX = "index"
# What the pool sets in each run beside what its owner sets.
INDEX_VARIABLE, COUNT_VARIABLE = "HIVEMIND_INDEX", "HIVEMIND_COUNT"
# Tasks of one piece of what `expand` makes: what is kept in one transaction, for which everybody else waits.
PIECE_TASKS = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SHOWN = 60


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the values that each task has. Raises InvalidInputError."""
    if len(names) > MAX_NAMES:
        raise InvalidInputError(f"a task of an array has at most {MAX_NAMES} values, not {len(names)}")
    for name in names:
        if name == INDEX:
            raise InvalidInputError(
                f"a value cannot be called {INDEX!r}: {{{INDEX}}} is the number of the task; rename it"
            )
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{_shown(name)} is no name of a value: it has letters, digits, '_', '.' and '-', 64 at the "
                "most, and begins with a letter or '_'"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"two values are called {twice!r}: give each a name of its own")
    return tuple(names)


def check_count(count: int) -> int:
    if not 1 <= count <= MAX_TASKS:
        raise InvalidInputError(f"an array has 1 to {MAX_TASKS} tasks, not {count}")
    return count


@dataclass(frozen=True, slots=True)
class Template:
    """A text with values in it: texts and names in turns, beginning with a text."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.parts[1::2]

    def render(self, values: Mapping[str, str]) -> str:
        parts = list(self.parts)
        for at in range(1, len(parts), 2):
            parts[at] = values[parts[at]]
        return "".join(parts)


def parse(text: str, known: Sequence[str], where: str) -> Template:
    """Raises InvalidInputError for a name that is not known, and for braces that are none of the three."""
    parts: list[str] = []
    end, literal = 0, ""
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        word = token[0]
        if word in ("{{", "}}"):
            literal += word[0]
            continue
        if token[1] is None:
            raise InvalidInputError(
                f"{where} {_shown(text)} has a single {word!r}: write {word * 2} for the character itself"
            )
        if token[1] not in known:
            raise _unknown(token[1], known, f"{where} {_shown(text)}")
        parts += [literal, token[1]]
        literal = ""
    return Template((*parts, literal + text[end:]))


def _unknown(name: str, known: Iterable[str], where: str) -> InvalidInputError:
    there = ", ".join(f"{{{one}}}" for one in known)
    return InvalidInputError(
        f"{where} names {{{name[:_SHOWN]}}}, which no task has a value for: there are {there}; "
        "{{ and }} stand for braces"
    )


@dataclass(frozen=True, slots=True)
class ArrayInputs:
    """What tasks of one array are given, before their values are in it."""

    names: tuple[str, ...]
    arguments: tuple[Template, ...]
    environment: tuple[tuple[str, Template], ...]
    same: tuple[tuple[str, str], ...] = ()  # names and values that all tasks have

    @classmethod
    def of(
        cls, names: Sequence[str], inputs: RunInputs, same: Mapping[str, str] | None = None
    ) -> ArrayInputs:
        """`same`: values that all of its tasks have, by names that nobody chooses.

        Raises InvalidInputError.
        """
        checked, common = check_names(names), dict(same or {})
        known = (INDEX, *checked, *common)
        return cls(
            names=checked,
            arguments=tuple(parse(text, known, "argument") for text in inputs.arguments),
            environment=tuple(
                (name, parse(text, known, f"environment variable {name}"))
                for name, text in inputs.environment.items()
            ),
            same=tuple(common.items()),
        )

    @property
    def varies(self) -> bool:
        """Whether tasks differ by more than their index."""
        texts = (*self.arguments, *(text for _, text in self.environment))
        return any(text.names for text in texts)

    def of_task(self, index: int, values: Sequence[str]) -> RunInputs:
        """Raises InvalidInputError for what no run can be given."""
        own = dict(zip(self.names, values, strict=True))
        named = {**dict(self.same), INDEX: str(index), **own}
        return RunInputs(
            tuple(text.render(named) for text in self.arguments),
            {name: text.render(named) for name, text in self.environment},
        )


def item_line(index: int, values: Sequence[str] = ()) -> str:
    return json.dumps([index, *values], ensure_ascii=False, separators=(",", ":")) + "\n"


def expand(items: bytes, inputs: ArrayInputs) -> list[str]:
    """What is stored of each task, in pieces: JSON of [index, arguments, environment] for each.

    Raises InvalidInputError for what is no array, and before anything is made of it.
    """
    pieces: list[str] = []
    rows: list[tuple[int, str, str]] = []
    same = None if inputs.varies else _stored(inputs.of_task(0, ("",) * len(inputs.names)))
    for index, values in _items(items, len(inputs.names)):
        rows.append((index, *(same or _of_task(inputs, index, values))))
        if len(rows) == PIECE_TASKS:
            pieces.append(_as_json(rows))
            rows = []
    if rows:
        pieces.append(_as_json(rows))
    return pieces


def _of_task(inputs: ArrayInputs, index: int, values: Sequence[str]) -> tuple[str, str]:
    try:
        return _stored(inputs.of_task(index, values))
    except InvalidInputError as error:
        raise InvalidInputError(f"task {index} of the array: {error}") from None


def _stored(inputs: RunInputs) -> tuple[str, str]:
    return arguments_to_json(inputs.arguments), mapping_to_json(inputs.environment)


def _items(items: bytes, width: int) -> Iterator[tuple[int, list[str]]]:
    lines = items.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    check_count(len(lines))
    seen: set[int] = set()
    for number, line in enumerate(lines, 1):
        index, values = _item(line, number, width)
        if index in seen:
            raise InvalidInputError(f"index {index} is there twice: each task of an array has its own")
        seen.add(index)
        yield index, values


def _item(line: bytes, number: int, width: int) -> tuple[int, list[str]]:
    try:
        item: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidInputError(f"item {number} of the array is no JSON") from None
    if not isinstance(item, list) or not item or type(item[0]) is not int:
        raise InvalidInputError(f"item {number} of the array does not begin with an index")
    if not 0 <= item[0] <= MAX_INDEX:
        raise InvalidInputError(f"an index is 0 to {MAX_INDEX}, not {item[0]}")
    if len(item) != width + 1 or not all(isinstance(value, str) for value in item[1:]):
        raise InvalidInputError(
            f"task {item[0]} of the array has {len(item) - 1} values, and there are {width} names: "
            "each takes one text"
        )
    return item[0], item[1:]


def _as_json(rows: list[tuple[int, str, str]]) -> str:
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
