"""Small writes that the pool lives from, which the server takes also when its memory is full."""

from __future__ import annotations

from typing import Any

from nodepool.stores.redis import scripts
from nodepool.stores.redis.client import Client


class EvenWhenFull:
    """One command on one key. For what is small, bounded in number, and has a time to live or an owner."""

    def __init__(self, client: Client) -> None:
        self._run = client.register_script(scripts.EVEN_WHEN_FULL + scripts.ONE_COMMAND)

    def __call__(self, command: str, key: str, *arguments: Any, client: Any = None) -> Any:
        """`client`: a pipeline that it becomes part of."""
        return self._run(keys=[key], args=[command, *arguments], client=client)
