"""What a task waits for, as one word of a small set: for metrics, where each word is a time series.

Pure. The sentence that its owner reads has numbers in it; here only what kind of thing is missing counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from nodepool.domain.resources import RESOURCE_NAMES
from nodepool.domain.tasks.clauses import ClauseKind
from nodepool.domain.tasks.reasons import ReasonCode

#: Nobody has looked for a node yet.
NOT_LOOKED = "not_looked"
OTHER = "other"
_OF_CODE = {
    ReasonCode.NONE: NOT_LOOKED,
    ReasonCode.NO_NODE_JOINED: "no_node",
    ReasonCode.RUNNING_LIMIT_BELOW: "running_limit",
    ReasonCode.RUNNING_LIMIT_FROM: "running_limit",
    ReasonCode.NO_MONEY: "no_money",
}
_WITH_CLAUSES = frozenset({ReasonCode.NO_NODE_NOW, ReasonCode.NO_NODE_EVER})
_WITH_RESOURCE = frozenset({ClauseKind.TOO_SMALL, ClauseKind.BUSY})


def wait_causes() -> frozenset[str]:
    """Every word that `wait_cause` may say."""
    return frozenset(_every())


def _every() -> Iterator[str]:
    yield from (*_OF_CODE.values(), OTHER)
    for kind in ClauseKind:
        if kind in _WITH_RESOURCE:
            yield from (f"{kind.value}_{resource}" for resource in RESOURCE_NAMES)
        else:
            yield kind.value


_KNOWN = wait_causes()


def wait_cause(code: str, parameters: str) -> str:
    """Of a waiting task's reason, as SQL has it. Of several clauses the one that most nodes fail on."""
    if code in _OF_CODE:
        return _OF_CODE[ReasonCode(code)]
    if code not in _WITH_CLAUSES:
        # A task that was given back waits with the reason of its last attempt until somebody looks.
        return NOT_LOOKED if code in list(ReasonCode) else OTHER
    try:
        kind, resource, _ = json.loads(parameters)["failed"][0]
        word = f"{kind}_{resource}" if kind in _WITH_RESOURCE else str(kind)
    except (ValueError, TypeError, LookupError):
        return OTHER
    return word if word in _KNOWN else OTHER
