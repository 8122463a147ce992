"""What a task's owner passes to its entry script: arguments, and variables of its environment.

Pure. They are carried exactly as they are and read by no shell. What no program of Linux can be given is
refused: a NUL, and more than the bounds. Which variables are the run's own: `environment_names`. One rule for
the client, who is told before anything is sent, for the gateway, and for the agent, who takes nobody's word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.environment_names import check_environment_names

MAX_ARGUMENTS = 1024
MAX_VARIABLES = 256
# Of both together, with the NUL that ends each and the = of each variable. Linux takes 128 KiB of one word,
# and with the usual stack 2 MiB of all; the run's own variables and its sandbox come on top of this.
MAX_INPUT_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class RunInputs:
    """Raises InvalidInputError for what no run can be given. Values are in no `repr`, and so in no log."""

    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_environment_names(self.environment)
        check_bounds(self.arguments, self.environment)

    def __bool__(self) -> bool:
        return bool(self.arguments or self.environment)


def check_bounds(
    arguments: Iterable[str], environment: Mapping[str, str], *, pools_too: bool = False
) -> None:
    """Raises InvalidInputError where there are too many, too long ones, or some that cannot be passed.

    `pools_too`: with what the pool adds itself, for which there is as much room again.
    """
    room = 2 if pools_too else 1
    if isinstance(arguments, str):
        raise InvalidInputError("arguments are a list of words, not one text")
    words = list(arguments)
    if len(words) > MAX_ARGUMENTS:
        raise InvalidInputError(
            f"a task takes at most {MAX_ARGUMENTS} arguments, not {len(words)}: "
            "put them into a file of the package"
        )
    if len(environment) > room * MAX_VARIABLES:
        raise InvalidInputError(
            f"a task takes at most {MAX_VARIABLES} environment variables, not {len(environment)}"
        )
    total = sum(_size(f"argument {number}", word) for number, word in enumerate(words, 1))
    total += sum(
        len(name) + 1 + _size(f"environment variable {name}", value) for name, value in environment.items()
    )
    if total > room * MAX_INPUT_BYTES:
        raise InvalidInputError(
            f"arguments and environment variables have {total} bytes together, over the limit of "
            f"{MAX_INPUT_BYTES}: put what is long into a file of the package"
        )


def _size(what: str, text: str) -> int:
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} must be text, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidInputError(f"{what} has a NUL character, which no program can be given")
    try:
        return len(text.encode()) + 1
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what} is not valid UTF-8") from None


def arguments_to_json(arguments: Iterable[str]) -> str:
    """As they are stored; empty where there are none."""
    words = list(arguments)
    return _as_json(words) if words else ""


def arguments_from_json(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def mapping_to_json(values: Mapping[str, str]) -> str:
    """Names and values as they are stored: equal ones are equal texts. Empty where there are none."""
    return _as_json(dict(sorted(values.items()))) if values else ""


def mapping_from_json(text: str) -> dict[str, str]:
    return dict(json.loads(text)) if text else {}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
