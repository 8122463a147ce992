"""A token that is over speaks for its node while the pool hears of it, and through the pool's own outages."""

from __future__ import annotations

import asyncio

from gateway.auth.registered_tokens import GRACE_SECONDS, RegisteredTokens, TokenNode
from gateway.auth.tokens import CallerIdentity

WORKER = CallerIdentity(1, "ada", "user", token_sha256="a" * 64)


class Stage:
    def __init__(self) -> None:
        self.now = 0.0
        self.found: TokenNode | None = TokenNode("ada", heard=True)
        self.asked = 0
        self.tokens = RegisteredTokens(self._ask, lambda: self.now)

    async def _ask(self, _: CallerIdentity) -> TokenNode | None:
        self.asked += 1
        return self.found

    def node(self, after_seconds: float = 0.0) -> str:
        self.now += after_seconds
        return asyncio.run(self.tokens.node_of(WORKER))


def test_it_is_asked_once_a_second() -> None:
    stage = Stage()
    assert [stage.node(), stage.node(0.5), stage.node(0.6)] == ["ada"] * 3
    assert stage.asked == 2


def test_a_node_that_is_gone_or_registered_anew_has_no_word() -> None:
    stage = Stage()
    stage.found = None
    assert stage.node() == ""


def test_silence_ends_it_and_the_pools_own_does_not() -> None:
    stage = Stage()
    stage.now = 10 * GRACE_SECONDS
    assert stage.node() == "ada"
    stage.found = TokenNode("ada", heard=None)  # the broker is away
    assert stage.node(2 * GRACE_SECONDS) == "ada"
    stage.found = TokenNode("ada", heard=False)  # it was just back
    assert stage.node(GRACE_SECONDS - 1) == "ada"
    assert stage.node(GRACE_SECONDS + 1) == ""
    assert stage.node(2) == ""


def test_a_gateway_that_was_just_started_has_heard_nobody_yet() -> None:
    stage = Stage()
    stage.found = TokenNode("ada", heard=False)
    assert stage.node(GRACE_SECONDS - 1) == "ada"
    again = Stage()
    again.found = TokenNode("ada", heard=False)
    assert again.node(GRACE_SECONDS + 1) == ""
