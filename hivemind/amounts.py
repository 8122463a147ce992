"""Amounts with their units, as people write them: `512M`, `1.5G`, `30s`. Numbers without one are refused
where it is not plain what they count."""

from __future__ import annotations

import re
from fractions import Fraction

from hivemind.errors import InvalidInputError
from nodepool.domain.resources import MAX_AMOUNT, MEBIBYTES_PER_GIBIBYTE

_SIZE = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([KMGT])(?:i?B)?\s*", re.IGNORECASE)
_EXPONENT = {"K": 1, "M": 2, "G": 3, "T": 4}
_BYTES_PER_MIB = 1 << 20


def bytes_of(text: object, what: str) -> int:
    """`512M`, `1.5G`, `2 GiB`: powers of 1024, rounded up to whole bytes. Raises InvalidInputError."""
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInputError(
            f'{what} takes a number with its unit, such as "512M" or "1.5G", not {_shown(text)}'
        )
    unit: int = 1024 ** _EXPONENT[found[2].upper()]
    exact = Fraction(found[1]) * unit
    return -(-exact.numerator // exact.denominator)


def mebibytes_of(text: object, what: str) -> int:
    """The same in MiB, rounded up, and at least one."""
    amount = -(-bytes_of(text, what) // _BYTES_PER_MIB)
    if not 1 <= amount <= MAX_AMOUNT:
        raise InvalidInputError(f"{what} must be 1 MiB to {MAX_AMOUNT:,} MiB, not {_shown(text)}")
    return amount


def gibibytes_of(text: object, what: str) -> int:
    """Whole GiB, rounded up: there is no finer unit of it in the pool."""
    return -(-mebibytes_of(text, what) // MEBIBYTES_PER_GIBIBYTE)


def seconds_of(value: object, what: str) -> float:
    """A number of seconds, 0 or more. Raises InvalidInputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidInputError(f"{what} must be a number of seconds, 0 or more, not {_shown(value)}")
    return float(value)


def size_text(mebibytes: int) -> str:
    """`512 MiB`, `1.5 GiB`."""
    if mebibytes < MEBIBYTES_PER_GIBIBYTE:
        return f"{mebibytes} MiB"
    return f"{mebibytes / MEBIBYTES_PER_GIBIBYTE:.4g} GiB"


def _shown(value: object) -> str:
    return ascii(value)[:60]
