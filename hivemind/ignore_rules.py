"""What of a directory is packed and what is left out, by gitignore's rules, in bounded time.

The file may have come with somebody else's code. Its patterns become regular expressions, in which a few `*`
are enough to keep a machine busy for years; here each `*` but the last one of a name takes the first place
that fits and is not tried again, which finds the same and is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from hivemind.errors import RefusedError

MAX_PATTERNS = 1000
MAX_PATTERN_CHARACTERS = 256
# `**` is any number of folders, and each one multiplies the ways to read a path.
MAX_DOUBLE_STARS = 3
_MAX_BYTES = 1 << 18
_STAR = "[^/]*"


class LinearPattern(GitIgnoreSpecPattern):
    """A pattern of gitignore whose `*` are never tried a second time."""

    @staticmethod
    def _translate_segment_glob(pattern: str, *options: Any) -> str:
        # Versions of pathspec differ in what else they say here.
        translated: str = GitIgnoreSpecPattern._translate_segment_glob(pattern, *options)
        begin, *rest = translated.split(_STAR)
        if not rest:
            return begin
        *between, end = rest
        return begin + "".join(f"(?>[^/]*?{part})" for part in between if part) + _STAR + end


class Selection:
    """What of a directory is packed. Names are relative to it, with a slash at the end of a folder's.

    The defaults and what is private are left out, and what the file names when there is one; what `include`
    names is packed all the same. Raises RefusedError for a file or an `include` that cannot be understood.
    """

    def __init__(
        self, file: Path, defaults: Sequence[str], private: Sequence[str], include: Sequence[str] = ()
    ) -> None:
        _check(include, "--include")
        self._ignored = _spec([*defaults, *private, *_lines_of(file)], str(file))
        self._private = _spec(private, "")
        self._included = {pattern: _spec([pattern], "--include") for pattern in include}
        # Folders that are left out are looked into where something in them is named.
        self._leads = tuple(pattern.removeprefix("/") for pattern in include if "/" in pattern.strip("/"))
        self.left_out: set[str] = set()  # of what is private
        self.unused = set(include)

    def takes(self, name: str) -> bool:
        if named := [pattern for pattern, spec in self._included.items() if spec.match_file(name)]:
            self.unused.difference_update(named)
            return True
        if not self._ignored.match_file(name):
            return True
        if self._private.match_file(name) and not self.looks_into(name):
            self.left_out.add(name)
        return False

    def looks_into(self, folder: str) -> bool:
        """Of one that is left out: whether something in it is taken."""
        return any(lead.startswith(folder) for lead in self._leads)

    def is_private(self, name: str) -> bool:
        return self._private.match_file(name)


def _lines_of(file: Path) -> list[str]:
    if file.is_file():
        with file.open("rb") as source:
            text = source.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise RefusedError(f"{file} is larger than {_MAX_BYTES} bytes")
        try:
            own = text.decode("utf-8-sig").splitlines()
        except ValueError as error:
            raise RefusedError(f"{file} cannot be understood: {error}") from error
        _check(own, file)
        return own
    return []


def _spec(lines: Sequence[str], source: str) -> GitIgnoreSpec:
    try:
        # The other engines know no atomic groups.
        return GitIgnoreSpec.from_lines(lines, LinearPattern, backend="simple")
    except ValueError as error:
        raise RefusedError(f"{source} cannot be understood: {error}") from error


def _check(lines: Sequence[str], file: Path | str) -> None:
    patterns = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        patterns += 1
        if patterns > MAX_PATTERNS:
            raise RefusedError(f"{file} has more than {MAX_PATTERNS} patterns")
        if len(line) > MAX_PATTERN_CHARACTERS:
            raise RefusedError(f"line {number} of {file} is longer than {MAX_PATTERN_CHARACTERS} characters")
        if line.count("**") > MAX_DOUBLE_STARS:
            raise RefusedError(f"line {number} of {file} has more than {MAX_DOUBLE_STARS} of `**`")
