"""The pool's own word to Flower: how an attempt ended, as SQL has it, and which node has left.

Agents say of their messages what they like, and one that died says nothing. Only the pool's own users may
publish on this channel. A word that nobody hears is lost: Flower is a window and no record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_node_id
from nodepool.domain.tasks.states import Outcome
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, translated_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedWord:
    """`task`: as its node knows it. Nothing that a user's program is, reads or prints."""

    attempt: str
    task: str
    node: str
    outcome: Outcome
    reason: str = ""  # its code
    exit_code: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LeftWord:
    node: str


class MonitorWords:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: Client) -> None:
        self._redis = client

    def ended(self, word: EndedWord) -> None:
        self._say(json.dumps(asdict(word)))

    def left(self, node_id: str) -> None:
        self._say(json.dumps({"node": node_id}))

    def _say(self, text: str) -> None:
        with translated_errors():
            self._redis.publish(keys.MONITOR_CHANNEL, text)


def read(data: bytes) -> EndedWord | LeftWord | None:
    """None for what another version of the pool says."""
    try:
        told = json.loads(data)
        node = check_node_id(told.pop("node"))
        if not told:
            return LeftWord(node)
        return EndedWord(**{**told, "node": node, "outcome": Outcome(told["outcome"])})
    except (ValueError, TypeError, KeyError, AttributeError, InvalidInputError):
        return None
