"""A page's token is its caller's, for the same list only, and nobody else can make one."""

from __future__ import annotations

import base64

import pytest

from gateway import page_tokens
from gateway.auth.tokens import Tokens
from nodepool.domain.errors import InvalidInputError

TOKENS = Tokens("a secret of thirty-two characters", 60)
PLACE = [1_700_000_000.123456, "task_ü"]


def test_it_comes_back_as_it_was_also_at_another_gateway() -> None:
    token = page_tokens.issue(TOKENS, 7, "tasks", PLACE)
    other = Tokens("a secret of thirty-two characters", 60)
    assert page_tokens.read(other, 7, "tasks", token) == PLACE


def test_another_callers_another_lists_or_a_made_one_is_refused() -> None:
    token = page_tokens.issue(TOKENS, 7, "tasks", PLACE)
    words, _, seal = token.partition(".")
    forged = base64.urlsafe_b64encode(b'[0, "other"]').decode().rstrip("=")
    for user_id, question, bad in (
        (8, "tasks", token),
        (7, "jobs", token),
        (7, "tasks", f"{forged}.{seal}"),
        (7, "tasks", words),
        (7, "tasks", "."),
        (7, "tasks", "x" * 100_000),
        (7, "tasks", "\x00é.\udcff"),
        (7, "tasks", '[1.0, "a"]'),
    ):
        with pytest.raises(InvalidInputError, match="page_token must be"):
            page_tokens.read(TOKENS, user_id, question, bad)
    with pytest.raises(InvalidInputError):
        page_tokens.read(Tokens("another secret of 32 characters!!", 60), 7, "tasks", token)
