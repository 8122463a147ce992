"""`hivemind.toml`: what a project says of every task that is submitted from it.

It says what a task asks for and is given, and nothing else: no gateway, no secret and no variable of whoever
submits. So a project of somebody else, once fetched, decides about its own task alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hivemind.errors import RefusedError

FILE_NAME = "hivemind.toml"
TABLE = "submit"
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class ProjectDefaults:
    """`options` by their names on the command line without the dashes, such as `max-minutes`."""

    file: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def find(path: Path) -> Path | None:
    """The file for what is at `path`: in its folder, or above it up to the root of its Git repository."""
    folder = path if path.is_dir() else path.parent
    folder = folder.resolve()
    above = [folder, *folder.parents]
    root = next((at for at, each in enumerate(above) if (each / ".git").exists()), 0)
    return next((found for each in above[: root + 1] if (found := each / FILE_NAME).is_file()), None)


def read(file: Path) -> ProjectDefaults:
    """Raises RefusedError for what is no TOML, and for tables that are none of ours."""
    try:
        with file.open("rb") as source:
            data = source.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise RefusedError(f"{file} has more than {_MAX_BYTES >> 10} KiB")
        whole = tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise RefusedError(f"{file} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RefusedError(f"{file} is not TOML: {error}") from error
    for name in whole:
        if name != TABLE:
            raise RefusedError(f"{file}: there is no [{name}], only [{TABLE}]")
    options = whole.get(TABLE, {})
    if not isinstance(options, dict):
        raise RefusedError(f"{file}: [{TABLE}] must be a table")
    options = {name.replace("_", "-"): value for name, value in options.items()}
    environment, labels = (_texts(file, name, options.pop(name, {})) for name in ("env", "labels"))
    return ProjectDefaults(file, options, environment, labels)


def unknown(file: Path, name: str, known: list[str]) -> RefusedError:
    """For an option that cannot be said in the file."""
    close = get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]}?" if close else f"; it can say {', '.join(known)}"
    return RefusedError(f"{file}: [{TABLE}] has no {name}{guess}")


def _texts(file: Path, name: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise RefusedError(f'{file}: {name} must be a table of texts, such as {name} = {{ KEY = "value" }}')
    return table
