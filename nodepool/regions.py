"""Names of regions: the words that clients send, and the slugs that queues are named by."""

from __future__ import annotations

from nodepool.errors import InvalidInputError

ANY = "any"
UNKNOWN = "unknown"

# slug -> the words of the wire contract and the English name
_WORDS = {
    "asia": ("亞洲", "Asia"),
    "africa": ("非洲", "Africa"),
    "north-america": ("北美", "North America"),
    "south-america": ("南美", "South America"),
    "europe": ("歐洲", "Europe"),
    "oceania": ("大洋洲", "Oceania"),
    UNKNOWN: ("Unknown",),
}
NODE_REGIONS = tuple(_WORDS)
TASK_REGIONS = (*NODE_REGIONS, ANY)

_SLUG_OF = {word.casefold(): slug for slug, words in _WORDS.items() for word in (slug, *words)}


def task_region(word: str) -> str:
    """The slug of the region a task wishes for; empty or `Any` is no wish."""
    key = word.strip().casefold()
    return ANY if key in {"", ANY} else _slug(key, word)


def node_region(word: str) -> str:
    """The slug of the region a node says it is in; empty is unknown."""
    key = word.strip().casefold()
    return UNKNOWN if key == "" else _slug(key, word)


def _slug(key: str, word: str) -> str:
    try:
        return _SLUG_OF[key]
    except KeyError:
        raise InvalidInputError(
            f"no region is called {word[:40]!r}; use Any or one of: {', '.join(NODE_REGIONS)}"
        ) from None
