"""The connections that the broker has open, of whom they are, and how one is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodepool.stores.redis.client import Client, translated_errors


class Connections:
    """Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._redis = client

    def count(self) -> int:
        with translated_errors():
            return int(self._redis.info("clients")["connected_clients"])

    def server(self) -> str:
        """Which start of which server this is: another one after a failover, or a restart."""
        with translated_errors():
            return str(self._redis.info("server")["run_id"])

    def listed(self) -> Sequence[Mapping[str, str]]:
        """As CLIENT LIST says: among others `id` and `user` of each."""
        with translated_errors():
            return self._redis.client_list()

    def cut(self, ids: Sequence[str]) -> None:
        with translated_errors():
            for number in ids:
                self._redis.client_kill_filter(_id=number)
