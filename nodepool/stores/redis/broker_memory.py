"""How much memory the broker uses, and how much it may. Decides nothing."""

from __future__ import annotations

from nodepool.stores.redis.client import Client, translated_errors


def memory_of(client: Client) -> tuple[int, int]:
    """Bytes in use, and their bound; 0 where there is none."""
    with translated_errors():
        info = client.info("memory")
    return int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
