"""How long a page of a list is."""

from __future__ import annotations

from nodepool.domain.errors import InvalidInputError


def page_size(size: int, *, default: int, most: int) -> int:
    """0 is the default, more than `most` is `most`; InvalidInputError below 0."""
    if size < 0:
        raise InvalidInputError(f"page_size must be 0 (for {default}) to {most}, not {size}")
    return min(size or default, most)
