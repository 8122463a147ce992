"""What a directory's ignore file leaves out, by gitignore's rules, in bounded time.

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


def ignores_of(file: Path, defaults: Sequence[str]) -> GitIgnoreSpec:
    """The defaults, and what the file says when there is one. Raises RefusedError."""
    lines = list(defaults)
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
        lines += own
    try:
        # The other engines know no atomic groups.
        return GitIgnoreSpec.from_lines(lines, LinearPattern, backend="simple")
    except ValueError as error:
        raise RefusedError(f"{file} cannot be understood: {error}") from error


def _check(lines: Sequence[str], file: Path) -> None:
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
