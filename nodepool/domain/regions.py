"""Names of regions: the words that clients send, and the slugs that queues are named by."""

from __future__ import annotations

from nodepool.domain.errors import InvalidInputError

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


# Longitudes and latitudes of the regions' middles are far from where machines stand; what counts is which
# region's network is near: steps between neighbours, by the submarine and land cables that carry most.
_DISTANCE = {
    frozenset({"asia", "oceania"}): 1,
    frozenset({"asia", "europe"}): 2,
    frozenset({"asia", "north-america"}): 2,
    frozenset({"asia", "africa"}): 2,
    frozenset({"asia", "south-america"}): 4,
    frozenset({"europe", "africa"}): 1,
    frozenset({"europe", "north-america"}): 1,
    frozenset({"europe", "south-america"}): 2,
    frozenset({"europe", "oceania"}): 4,
    frozenset({"north-america", "south-america"}): 1,
    frozenset({"north-america", "oceania"}): 2,
    frozenset({"north-america", "africa"}): 2,
    frozenset({"south-america", "africa"}): 2,
    frozenset({"south-america", "oceania"}): 3,
    frozenset({"africa", "oceania"}): 3,
}
MAX_DISTANCE = 5


def distance(one: str, other: str) -> int:
    """Steps between two regions: 0 the same (or any region), MAX_DISTANCE when one of them is unknown."""
    if one == other or ANY in (one, other):
        return 0
    return _DISTANCE.get(frozenset({one, other}), MAX_DISTANCE)


def task_region(word: str) -> str:
    """The slug of the region a task asks for; empty or `Any` asks for none."""
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
