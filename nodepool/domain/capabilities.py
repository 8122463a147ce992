"""What an agent can do for a run beyond what all agents ever could, as it says when it registers and claims.

Pure. A task that needs one of these goes to no node whose agent does not say so: an older one would run it
without, and nobody would notice. Nodes without an agent have none. Words that this version does not know are
kept as they are: a newer agent has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from nodepool.domain.errors import InvalidInputError

_MOST, _LONGEST = 16, 32


class Capability(StrEnum):
    INPUTS = "inputs"  # arguments and environment variables of the task
    SECRETS = "secrets"  # variables that nothing but the run is to show
    RESULTS = "results"  # files that other steps of a flow made


# What an agent of this version says.
ALL = tuple(Capability)
# What a pool can do by itself, and clients ask for before they count on it.
AFTER_OTHERS = "after"  # tasks wait for other tasks
POOL = (*ALL, AFTER_OTHERS)
_WORDS = {
    Capability.INPUTS: "arguments or environment variables",
    Capability.SECRETS: "secrets",
    Capability.RESULTS: "results of other steps of a flow",
}


def check_capabilities(told: Iterable[str]) -> str:
    """As it is stored: sorted, with blanks between. Raises InvalidInputError for what are no such words."""
    words = sorted(set(told))
    if len(words) > _MOST or not all(_is_word(word) for word in words):
        raise InvalidInputError(
            f"capabilities are at most {_MOST} words of at most {_LONGEST} letters, digits and underscores"
        )
    return " ".join(words)


def capabilities_of(stored: str) -> frozenset[str]:
    return frozenset(stored.split())


def needed(*, has_inputs: bool, has_secrets: bool, has_results: bool = False) -> str:
    """What a task needs of its node's agent, as it is stored."""
    wanted = {
        Capability.INPUTS: has_inputs,
        Capability.SECRETS: has_secrets,
        Capability.RESULTS: has_results,
    }
    return check_capabilities(word for word, is_needed in wanted.items() if is_needed)


def lacking(needs: str, able: Iterable[str]) -> str:
    """The first that is needed and is not there, in words; empty when nothing is lacking."""
    missing = sorted(capabilities_of(needs).difference(able))
    return in_words(missing[0]) if missing else ""


def in_words(capability: str) -> str:
    """What an agent passes on to a run."""
    return _WORDS[Capability(capability)] if capability in set(Capability) else f"what {capability} means"


def _is_word(word: str) -> bool:
    return 0 < len(word) <= _LONGEST and word.isascii() and word.replace("_", "").isalnum()
