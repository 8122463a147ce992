"""Secrets of a user, and which of them a run is given under which names of its environment.

Pure. A task says NAME, or NAME=VARIABLE where the run is to find it under another name, and has the names
alone: values are read when a node claims the task. One rule for the client, who is told before anything is
sent, and for the gateway. Knows neither how values are kept nor how they reach a run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.tasks.environment_names import check_environment_names

MAX_NAME = 64
MAX_OF_USER = 100
MAX_OF_TASK = 16
MAX_VALUE_BYTES = 16 << 10
# Of all that one task is given: they come on top of its arguments and variables (run_inputs).
MAX_BYTES_OF_TASK = 32 << 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_SHOWN = 40
_MOST_NAMED = 20


def check_secret_name(name: str) -> str:
    """As it is. Raises InvalidInputError, whose words never hold what may be a value instead of a name."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"a secret's name has at most {MAX_NAME} letters, digits and underscores, and does not begin "
            "with a digit"
        )
    return name


def check_secret_value(value: str) -> int:
    """How many bytes it has. Raises InvalidInputError, whose words do not hold it."""
    if not isinstance(value, str):
        raise InvalidInputError(f"the value of a secret is text, not {type(value).__name__}")
    if not value:
        raise InvalidInputError("the value of the secret is empty; nothing was set")
    if "\0" in value:
        raise InvalidInputError("the value has a NUL character, which no program can be given: encode it")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInputError("the value is not valid UTF-8: encode it, such as in base64") from None
    if size > MAX_VALUE_BYTES:
        raise InvalidInputError(
            f"the value is over the {MAX_VALUE_BYTES} bytes that a secret may have: encrypt what is long, "
            "put it into the package, and make its key the secret"
        )
    return size


def wanted_secrets(words: Iterable[str], environment: Collection[str]) -> dict[str, str]:
    """Of words as NAME or NAME=VARIABLE the names of the secrets, by their variables.

    `environment`: names that the task sets by itself. Raises InvalidInputError.
    """
    if isinstance(words, str):
        raise InvalidInputError("secrets are a list of names, not one text")
    found: dict[str, str] = {}
    for word in words:
        if not isinstance(word, str):
            raise InvalidInputError(f"a secret is asked for by its name, not by {type(word).__name__}")
        name, equals, variable = word.partition("=")
        check_secret_name(name)
        variable = variable if equals else name
        if variable in found:
            raise InvalidInputError(f"two secrets cannot both be the variable {_shown(variable)}")
        found[variable] = name
    if len(found) > MAX_OF_TASK:
        raise InvalidInputError(f"a task takes at most {MAX_OF_TASK} secrets, not {len(found)}")
    check_environment_names(found)
    if twice := sorted(found.keys() & set(environment)):
        raise InvalidInputError(
            f"{_shown(twice[0])} is both a variable and a secret of the task: give one of them another name "
            "(NAME=VARIABLE)"
        )
    return found


def words_of(secrets: Mapping[str, str]) -> list[str]:
    """The names by their variables, as a task says them."""
    return [name if name == variable else f"{name}={variable}" for variable, name in sorted(secrets.items())]


def check_are_set(wanted: Collection[str], sizes: Mapping[str, int]) -> None:
    """`sizes`: bytes of the user's secrets, by their names. Raises NotFoundError for one that is not set, and
    InvalidInputError for more than a task is given."""
    if missing := sorted(set(wanted) - sizes.keys())[:1]:
        known = ", ".join(sorted(sizes)[:_MOST_NAMED]) or "none at all"
        raise NotFoundError(
            f"you have no secret {missing[0]}, but these: {known}; `hivemind secret set {missing[0]}` sets it"
        )
    total = sum(sizes[name] for name in wanted)
    if total > MAX_BYTES_OF_TASK:
        raise InvalidInputError(
            f"the secrets of the task have {total} bytes together, over the limit of {MAX_BYTES_OF_TASK}"
        )


def _shown(name: str) -> str:
    return name if _NAME.fullmatch(name) else ascii(name[:_MOST_SHOWN])
