"""What agents say that they can do, and what becomes of words that nobody knows."""

from __future__ import annotations

import pytest

from nodepool.domain.capabilities import (
    ALL,
    Capability,
    capabilities_of,
    check_capabilities,
    in_words,
    lacking,
    needed,
)
from nodepool.domain.errors import InvalidInputError


def test_words_of_a_newer_agent_are_kept() -> None:
    stored = check_capabilities(["time_travel", *ALL, "time_travel"])
    assert capabilities_of(stored) == {"time_travel", *ALL}


@pytest.mark.parametrize(
    "told", [["two words"], [""], ["x" * 33], ["ü"], [f"c{n}" for n in range(17)], ["a\nb"]]
)
def test_what_is_no_word_is_refused(told: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="at most 16 words"):
        check_capabilities(told)


def test_what_is_lacking_is_told_in_words() -> None:
    inputs, both = needed(has_inputs=True, has_secrets=False), needed(has_inputs=True, has_secrets=True)
    assert lacking(inputs, ()) == "arguments or environment variables"
    assert lacking(inputs, [Capability.INPUTS]) == ""
    assert lacking(both, [Capability.INPUTS]) == "secrets"
    assert lacking(both, [Capability.INPUTS, Capability.SECRETS]) == ""
    assert lacking(needed(has_inputs=False, has_secrets=False), ()) == ""
    assert in_words("time_travel") == "what time_travel means"
