"""Patterns of file names, matched in one look at each character of a name, however many `*` they have. Pure.

`*` is any characters, also a slash; `?` is one; `[ab]`, `[a-z]` and `[!a]` are one of some, or of all others.
All patterns are one automaton whose states are the bits of one number: no pattern makes a name costlier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_PATTERN_CHARACTERS = 200
_KEPT_CHARACTERS = 1024

_Test = Callable[[str], bool]


class Globs:
    """`matches` asks for the whole of a name; `steps` counts the characters that were looked at."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.steps = 0
        self._begin = self._stars = self._ends = self._any = 0
        self._literals: dict[str, int] = {}
        self._tests: list[tuple[int, _Test]] = []
        self._masks: dict[str, int] = {}
        bit = 1
        for pattern in patterns:
            self._begin |= bit
            bit = self._add(pattern, bit)
        self._begin = self._closed(self._begin)

    def matches(self, name: str) -> bool:
        states = self._begin
        for character in name:
            self.steps += 1
            mask = self._masks.get(character)
            if mask is None:
                mask = self._mask(character)
            states = self._closed((states & mask) << 1 | states & self._stars)
            if not states:
                return False
        return bool(states & self._ends)

    def _closed(self, states: int) -> int:
        """A star may be nothing at all. There are no two in a row."""
        return states | (states & self._stars) << 1

    def _add(self, pattern: str, bit: int) -> int:
        """The states of one pattern: one before each of its parts, and one after the last."""
        at = 0
        star_before = False
        while at < len(pattern):
            character = pattern[at]
            at += 1
            if character == "*":
                if star_before:
                    continue
                self._stars |= bit
            elif character == "?":
                self._any |= bit
            elif character == "[" and (end := _class_end(pattern, at)):
                self._tests.append((bit, _class_test(pattern[at:end])))
                at = end + 1
            else:
                self._literals[character] = self._literals.get(character, 0) | bit
            star_before = character == "*"
            bit <<= 1
        self._ends |= bit
        return bit << 1

    def _mask(self, character: str) -> int:
        mask = self._any | self._literals.get(character, 0)
        for bit, test in self._tests:
            if test(character):
                mask |= bit
        if len(self._masks) >= _KEPT_CHARACTERS:
            self._masks.clear()
        self._masks[character] = mask
        return mask


def count_classes(pattern: str) -> int:
    """How many `[` it may have; each costs a look at every new character."""
    return pattern.count("[")


def _class_end(pattern: str, at: int) -> int:
    """Where the class that begins at `at` is closed, or 0: then its bracket is a character like any other."""
    begin = at + 1 if pattern[at : at + 1] == "!" else at
    # A closing bracket that comes first is one of the class.
    end = pattern.find("]", begin + 1)
    return max(end, 0)


def _class_test(inside: str) -> _Test:
    negated = inside.startswith("!")
    rest = inside[1:] if negated else inside
    single: set[str] = set()
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(rest):
        if rest[at + 1 : at + 2] == "-" and at + 2 < len(rest):
            ranges.append((rest[at], rest[at + 2]))
            at += 3
        else:
            single.add(rest[at])
            at += 1

    def test(character: str) -> bool:
        found = character in single or any(first <= character <= last for first, last in ranges)
        return found is not negated

    return test
