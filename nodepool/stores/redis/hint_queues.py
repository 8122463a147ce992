"""Hints that wait in the dispatchers' queues, many taken at once.

Celery takes them one by one, which costs about a millisecond each. It is the one that waits for hints; where
many wait already, whoever places takes them from the same queues in a few round trips. They are hints: what
is lost between here and there the sweep tells again.
"""

from __future__ import annotations

import logging
from typing import cast

import redis

from nodepool.domain.regions import TASK_REGIONS
from nodepool.domain.trust.tiers import TIERS
from nodepool.messaging.message_template import argument_of
from nodepool.messaging.names import PLACE, partition_queue
from nodepool.stores.redis.client import translated_errors

log = logging.getLogger(__name__)

# In the order in which they are served.
_QUEUES = tuple(partition_queue(tier, region) for tier in TIERS for region in TASK_REGIONS)


class HintQueues:
    """Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def cut(self, most: int) -> None:
        """Of each queue no more than the oldest so many are kept; the sweep tells of the others again."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for queue in _QUEUES:
                pipe.ltrim(queue, -most, -1)
            pipe.execute()

    def take(self, limit: int) -> list[str]:
        """The tasks of at most so many hints: high trust before normal before low, the oldest first."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for queue in _QUEUES:
                pipe.llen(queue)
            lengths = cast("list[int]", pipe.execute())
            for queue, length in zip(_QUEUES, lengths, strict=True):
                if count := min(length, limit):
                    pipe.rpop(queue, count)
                    limit -= count
            taken = cast("list[list[bytes] | None]", pipe.execute())
        messages = [message for some in taken for message in some or ()]
        named = [argument_of(message, PLACE) for message in messages]
        if strange := named.count(None):
            log.warning("%d messages in the queues of hints were none, and are dropped", strange)
        return [task_id for task_id in named if task_id is not None]
