"""Where the next page of a list begins, as a word that only its caller can use, and for the same list only.

A token is sealed with the pool's secret, so that every gateway takes the others' and nobody makes one. Knows
no list.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from gateway.auth.tokens import Tokens
from nodepool.domain.errors import InvalidInputError

_SEAL_CHARACTERS = 32
_MOST_CHARACTERS = 1024


def issue(tokens: Tokens, user_id: int, question: str, place: list[Any]) -> str:
    """`question`: what the list is of; `place`: JSON."""
    words = base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")
    return f"{words}.{_seal(tokens, user_id, question, words)}"


def read(tokens: Tokens, user_id: int, question: str, token: str) -> list[Any]:
    """The place. Raises InvalidInputError for what was not issued to this caller for this list."""
    words, _, seal = token.partition(".")
    # The seal says that all of it is ours, so nothing is read before.
    fits = len(token) <= _MOST_CHARACTERS and seal == _seal(tokens, user_id, question, words)
    try:
        place = json.loads(base64.urlsafe_b64decode(words + "=" * (-len(words) % 4))) if fits else None
    except (ValueError, binascii.Error):
        place = None
    if not isinstance(place, list):
        raise InvalidInputError(
            "page_token must be the next_page_token of the page before, of the same list; ask without one to "
            "begin again"
        )
    return place


def _seal(tokens: Tokens, user_id: int, question: str, words: str) -> str:
    text = json.dumps(["page", user_id, question, words])
    return tokens.fingerprint(text)[:_SEAL_CHARACTERS]
