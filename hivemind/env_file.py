"""Files of environment variables, as `docker run --env-file` reads them.

One NAME=VALUE a line. Lines that begin with # and empty ones say nothing. A value is everything after the
first =: quotes, blanks and a # are part of it. A NAME alone is that of the caller's environment, and nothing
where that has none. The last of several counts. Knows no command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hivemind.errors import RefusedError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    variables: dict[str, str]
    warnings: tuple[str, ...]


def read(path: Path) -> bytes:
    """As much of the file as shows whether it is one of variables. Raises RefusedError."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}") from error


def parse(data: bytes, callers: Mapping[str, str], source: str) -> EnvironmentFile:
    """`source` is what errors call the file. Raises RefusedError with the number of the line."""
    if len(data) > _MOST_BYTES:
        raise RefusedError(f"{source} has more than {_MOST_BYTES >> 20} MiB, and is no file of variables")
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError:
        raise RefusedError(f"{source} is not UTF-8 text") from None
    found: dict[str, str] = {}
    quoted: list[str] = []
    # Not splitlines(): a value may have other characters that end lines elsewhere.
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.removesuffix("\r").lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not name or any(character.isspace() for character in name):
            raise RefusedError(f"{source}, line {number}: there is no variable's name before the =")
        if equals:
            found[name] = value
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                quoted.append(name)
        elif name in callers:
            found[name] = callers[name]
    return EnvironmentFile(found, _warning(quoted, source))


def _warning(quoted: list[str], source: str) -> tuple[str, ...]:
    if not quoted:
        return ()
    names = ", ".join(dict.fromkeys(quoted))
    return (f"{source}: the quotes around the value of {names} are part of it, as in docker's --env-file",)
