"""What Flower shows of attempts is the pool's word and not the node's: how each ended, and on which node.

A node's message is done for Celery when the node is done with it, however the run went, and a node may say
what it likes. So of the end of an attempt Flower hears nothing from nodes. For Flower's own thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from nodepool.domain.tasks.states import Outcome
from nodepool.messaging import names
from nodepool.stores.redis.monitor_words import EndedWord

AGENT_PREFIX = "agent@"
# What is told before the node's own event of the message's arrival, which comes some seconds late.
MAX_EARLY = 10_000
_ENDS = frozenset({"task-succeeded", "task-failed", "task-rejected", "task-retried", "task-revoked"})
_EVENT = {Outcome.SUCCEEDED: "succeeded", Outcome.STOPPED: "revoked"}
_FAILED = "failed"


class AttemptTruth:
    """Puts the pool's word into Flower's state."""

    def __init__(self, state: Any) -> None:
        self._state = state  # flower has no types
        self._early: OrderedDict[str, EndedWord] = OrderedDict()

    def is_only_said(self, event: dict[str, Any]) -> bool:
        """Whether this is a node's word on the end of an attempt."""
        if event["type"] not in _ENDS or not event["hostname"].startswith(AGENT_PREFIX):
            return False
        task = self._state.tasks.data.get(event["uuid"])
        return task is not None and task.name == names.EXECUTE

    def received(self, event: dict[str, Any], now: float) -> None:
        """A node's event is in Flower's state; its end may have been told before."""
        if event["type"] == "task-received" and (word := self._early.pop(event["uuid"], None)):
            self.ended(word, now)

    def ended(self, word: EndedWord, now: float) -> None:
        message = names.message_id(names.EXECUTE, word.attempt)
        host, task = AGENT_PREFIX + word.node, self._state.tasks.data.get(message)
        if task is None or task.name is None:
            self._early[message] = word
            while len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
            return
        if task.worker is None or task.worker.hostname != host:
            return
        kind = _EVENT.get(word.outcome, _FAILED)
        fields = {"args": names.shown_arguments(word.task, word.attempt, word.node), "result": in_words(word)}
        if kind == _FAILED:
            fields |= {"exception": in_words(word), "traceback": ""}
        told = {**fields, "runtime": round(word.seconds, 3)}
        # Not as an event of the worker's: one that is gone would seem to be there again.
        task.event(kind, now, now, told)
        self._state.counter[host][f"task-{kind}"] += 1
        self._state.metrics.observe_task(host, {"type": f"task-{kind}", **told}, task)
        self._state.search_engine.upsert(task)


def in_words(word: EndedWord) -> str:
    """`failed (exit code 3)`, `lost (node_late)`: the outcome, and codes of the pool's."""
    more = [f"exit code {word.exit_code}"] if word.exit_code is not None else []
    more += [word.reason] if word.reason and word.outcome is not Outcome.SUCCEEDED else []
    return f"{word.outcome} ({', '.join(more)})" if more else str(word.outcome)
