"""Why a task waits, and why a task or an attempt ended: a code with parameters, and here alone its words.

Pure. SQL keeps code and parameters beside the words; whoever decides by a reason asks for its code. Words
that a node or an agent chose itself are the parameter `detail`. Knows no store and no wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nodepool.domain.sizes import size_words
from nodepool.domain.tasks.clauses import Clause, ClauseKind

# So many characters of its words are stored and shown.
MAX_REASON = 500


class ReasonCode(StrEnum):
    NONE = ""
    TOLD = "told"  # by its node, or by a version of the pool that knew no codes
    # Why a task waits.
    NO_NODE_JOINED = "no_node_joined"
    NO_NODE_NOW = "no_node_now"
    NO_NODE_EVER = "no_node_ever"
    RUNNING_LIMIT_BELOW = "running_limit_below"
    RUNNING_LIMIT_FROM = "running_limit_from"
    NO_MONEY = "no_money"
    RETRY = "retry"
    AFTER_OTHERS = "after_others"
    # What it waited for ended otherwise than it should.
    NEEDED_FAILED = "needed_failed"
    INPUTS_TOO_LARGE = "inputs_too_large"
    # Its owner's stop.
    STOPPED = "stopped"
    STOPPED_WAITING = "stopped_waiting"
    STOPPED_UNSENT = "stopped_unsent"
    STOPPED_BY_POOL = "stopped_by_pool"
    STOPPED_BY_POOL_AFTER = "stopped_by_pool_after"
    STOPPED_BY_OPERATOR = "stopped_by_operator"
    # Its longest run.
    LONGEST_RUN = "longest_run"
    LONGEST_RUN_BY_POOL = "longest_run_by_pool"
    # Lost, evicted or refused.
    NODE_LEFT = "node_left"
    NODE_LATE = "node_late"
    NEVER_BEGUN = "never_begun"
    NOT_LISTED = "not_listed"
    EVICTED = "evicted"
    POOL_AWAY = "pool_away"
    OWNER_ONLY = "owner_only"
    NOT_ABLE = "not_able"
    NOT_TRUSTED = "not_trusted"
    IDLE = "idle"
    RESTORED = "restored"
    # What it was to be given is not there when it begins.
    SECRET_GONE = "secret_gone"  # noqa: S105 - no secret, as the next
    SECRET_UNREADABLE = "secret_unreadable"  # noqa: S105
    SECRETS_TOO_LARGE = "secrets_too_large"
    # What a node says when it refuses one. Its words are `detail`; whose fault it is: reason_classes.
    IMAGE_ABSENT = "image_absent"
    OTHER_PLATFORM = "other_platform"
    TOO_LITTLE_DISK = "too_little_disk"
    CANNOT_GIVE = "cannot_give"  # a GPU, the network, an image, a place for strangers
    ENGINE_REFUSED = "engine_refused"
    PACKAGE_NOT_WHOLE = "package_not_whole"
    DISK_FULL = "disk_full"
    ENGINE_AWAY = "engine_away"
    NODE_FAILED = "node_failed"
    NODE_BUSY = "node_busy"
    NODE_LEAVING = "node_leaving"
    # Nodes without an agent, which are called.
    NEVER_CALLED = "never_called"
    NOT_CALLED = "not_called"
    PACKAGE_UNREADABLE = "package_unreadable"
    CALL_UNANSWERED = "call_unanswered"
    CALL_UNANSWERED_FOR = "call_unanswered_for"
    CALL_FAILED = "call_failed"
    MESSAGE_TOO_LARGE = "message_too_large"
    RESULT_TOO_LARGE = "result_too_large"
    SILENT = "silent"
    REFUSED_BY_NODE = "refused_by_node"
    NO_RESULT = "no_result"
    FAILED_ON_NODE = "failed_on_node"
    FAILED_ON_NODE_WITH = "failed_on_node_with"
    # What the pool made of several attempts or runs.
    GIVEN_UP = "given_up"
    RETRIES_USED = "retries_used"
    NOT_NEEDED = "not_needed"
    RUNS_DIFFER = "runs_differ"
    UNVERIFIED = "unverified"
    UNVERIFIED_AFTER = "unverified_after"
    REPLACED = "replaced"
    REPLACED_STATE = "replaced_state"


# It never ran, since something else did not end as it should: it may be done again when that has.
STOPPED_FOR_OTHERS = frozenset({ReasonCode.NEEDED_FAILED, ReasonCode.INPUTS_TOO_LARGE})

_RUNNING = "its owner has {running} tasks running, as many as a credit score"
_LOOKED = "looked at {looked_at} nodes: {failed}"
# What is in braces is a parameter of that name.
_WORDS: dict[ReasonCode, str] = {
    ReasonCode.NONE: "",
    ReasonCode.TOLD: "{detail}",
    ReasonCode.NO_NODE_JOINED: "waiting: no node has joined the pool yet",
    ReasonCode.NO_NODE_NOW: f"waiting: {_LOOKED}",
    ReasonCode.NO_NODE_EVER: f"no node of the pool can ever run this: {_LOOKED}",
    ReasonCode.RUNNING_LIMIT_BELOW: f"{_RUNNING} below {{score}} allows",
    ReasonCode.RUNNING_LIMIT_FROM: f"{_RUNNING} of {{score}} or more allows",
    ReasonCode.NO_MONEY: "waiting for CPT: {amount} are set aside when it is placed, and its owner has less",
    ReasonCode.RETRY: "try {number} of {tries} failed ({last}); it is tried again",
    ReasonCode.AFTER_OTHERS: "waiting for other tasks: it comes after {after}",
    ReasonCode.NEEDED_FAILED: "stopped before it ran: it comes after {needed}, which {ended}",
    ReasonCode.INPUTS_TOO_LARGE: "stopped before it ran: the results that it is given have {found_bytes}, "
    "over the {limit_bytes} that this pool gives to one run",
    ReasonCode.STOPPED: "stopped by its owner",
    ReasonCode.STOPPED_WAITING: "stopped by its owner before it ran",
    ReasonCode.STOPPED_UNSENT: "stopped by its owner before it was sent to its node",
    ReasonCode.STOPPED_BY_POOL: "stopped by its owner; its node did not end it",
    ReasonCode.STOPPED_BY_POOL_AFTER: "stopped by its owner; its node did not end it within {seconds:g} s",
    ReasonCode.STOPPED_BY_OPERATOR: "stopped by the pool's operator",
    ReasonCode.LONGEST_RUN: "ended after its longest run, {minutes} minutes",
    ReasonCode.LONGEST_RUN_BY_POOL: "ended after its longest run, {minutes} minutes; its node did not end it",
    ReasonCode.NODE_LEFT: "node {node} left the pool",
    ReasonCode.NODE_LATE: "node {node} was not heard of for {seconds:g} s",
    ReasonCode.NEVER_BEGUN: "node {node} took it and never began it",
    ReasonCode.NOT_LISTED: "node {node} does not have it",
    ReasonCode.EVICTED: "evicted: node {node} ran short of memory",
    ReasonCode.POOL_AWAY: "node {node} ended it while the pool was away",
    ReasonCode.OWNER_ONLY: "node {node} takes its owner's tasks only",
    ReasonCode.NOT_ABLE: "the agent of node {node} is too old for what the task is given",
    ReasonCode.NOT_TRUSTED: "node {node} is of low trust now, and its owner could read the task's secrets",
    ReasonCode.IDLE: "node {node} took it and did nothing for {minutes} minutes",
    ReasonCode.RESTORED: "the pool was restored from a backup while it ran",
    ReasonCode.SECRET_GONE: "its secret {name} was removed before it began",
    ReasonCode.SECRET_UNREADABLE: "the pool cannot read its secret {name} any more, as its STORAGE_KEY is "
    "another one now: set the secret again",
    ReasonCode.SECRETS_TOO_LARGE: "its secrets have {have_bytes} together now, over the {limit_bytes} that a "
    "task is given",
    **dict.fromkeys(
        (
            ReasonCode.IMAGE_ABSENT,
            ReasonCode.OTHER_PLATFORM,
            ReasonCode.TOO_LITTLE_DISK,
            ReasonCode.CANNOT_GIVE,
            ReasonCode.ENGINE_REFUSED,
            ReasonCode.PACKAGE_NOT_WHOLE,
            ReasonCode.DISK_FULL,
            ReasonCode.ENGINE_AWAY,
            ReasonCode.NODE_FAILED,
            ReasonCode.NODE_BUSY,
            ReasonCode.NODE_LEAVING,
        ),
        "{detail}",
    ),
    ReasonCode.NEVER_CALLED: "the pool did not get to call node {node}",
    ReasonCode.NOT_CALLED: "node {node} is not called: {detail}",
    ReasonCode.PACKAGE_UNREADABLE: "its package could not be read: {detail}",
    ReasonCode.CALL_UNANSWERED: "node {node} was called and said nothing",
    ReasonCode.CALL_UNANSWERED_FOR: "node {node} was called and said nothing for {seconds:g} s",
    ReasonCode.CALL_FAILED: "node {node} was called: {detail}",
    ReasonCode.MESSAGE_TOO_LARGE: "node {node} takes messages of at most {limit_bytes}, and the package has "
    "{package_bytes}",
    ReasonCode.RESULT_TOO_LARGE: "its result is larger than the {limit_bytes} that this pool takes",
    ReasonCode.SILENT: "node {node} said nothing of it for {seconds:.0f} s, nor when it was asked",
    ReasonCode.REFUSED_BY_NODE: "node {node} refused it: {detail}",
    ReasonCode.NO_RESULT: "node {node} answered with what is no result: {detail}",
    ReasonCode.FAILED_ON_NODE: "its node reported that it failed",
    ReasonCode.FAILED_ON_NODE_WITH: "its node reported that it failed: {detail}",
    ReasonCode.GIVEN_UP: "given up after {attempts} attempts were lost; the last: {last}",
    ReasonCode.RETRIES_USED: "failed in each of {tries} tries; the last: {last}",
    ReasonCode.NOT_NEEDED: "the other runs of the task have decided",
    ReasonCode.RUNS_DIFFER: "its {runs} runs returned {results} different results, and no more owners could "
    "be asked: compare only files that are the same in every run, with compare_outputs",
    ReasonCode.UNVERIFIED: "it could not be verified",
    ReasonCode.UNVERIFIED_AFTER: "it could not be verified: {last}",
    ReasonCode.REPLACED: "its first result was false, as other nodes found; this is the one that they "
    "agree on",
    ReasonCode.REPLACED_STATE: "its first result was false: other nodes agree that it {state}",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Parameters are what JSON can hold. An empty reason is false."""

    code: ReasonCode = ReasonCode.NONE
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.code is not ReasonCode.NONE

    def __str__(self) -> str:
        """The whole of its words; MAX_REASON of them are shown."""
        shown = {name: _shown(name, value) for name, value in self.parameters.items()}
        return _WORDS[self.code].format_map(shown)

    def parameters_as_json(self) -> str:
        """Empty where there are none."""
        if not self.parameters:
            return ""
        return json.dumps(dict(self.parameters), separators=(",", ":"), sort_keys=True)


NO_REASON = Reason()


def because(code: ReasonCode, **parameters: Any) -> Reason:
    """A reason of this code. Raises ValueError where its words need other parameters."""
    if parameters.keys() != parameters_of(code):
        raise ValueError(
            f"{code.name} has the parameters {sorted(parameters_of(code))}, not {sorted(parameters)}"
        )
    return Reason(code, {name: _plain(value) for name, value in parameters.items()})


def parameters_of(code: ReasonCode) -> frozenset[str]:
    return frozenset(re.findall(r"\{(\w+)", _WORDS[code]))


def told(words: str) -> Reason:
    """In the words of whoever ended it."""
    return because(ReasonCode.TOLD, detail=words) if words else NO_REASON


def waits_for_cpt(amount: int) -> Reason:
    """Its owner cannot hold that much. What they have is not in it: it changes with every task that ends."""
    return because(ReasonCode.NO_MONEY, amount=amount)


def no_node(looked_at: int, failed: Mapping[Clause, int], *, hopeless: bool) -> Reason:
    """`failed`: how many nodes failed on which clause."""
    if looked_at == 0:
        return because(ReasonCode.NO_NODE_JOINED)
    code = ReasonCode.NO_NODE_EVER if hopeless else ReasonCode.NO_NODE_NOW
    most_first = sorted(failed.items(), key=lambda item: -item[1])
    return because(code, looked_at=looked_at, failed=[[c.kind, c.resource, n] for c, n in most_first])


def stored(code: str, parameters: str, words: str) -> Reason:
    """As SQL has it. A row of before there were codes, or of a later version, has words alone."""
    try:
        reason = Reason(ReasonCode(code), json.loads(parameters) if parameters else {})
        str(reason)
    except (ValueError, TypeError, KeyError, LookupError, AttributeError):
        return told(words)
    return reason if reason else told(words)


def _plain(value: Any) -> Any:
    """Of another reason what can be stored of it."""
    if isinstance(value, Reason):
        return {"code": value.code.value, "parameters": dict(value.parameters)}
    return value.value if isinstance(value, StrEnum) else value


def _shown(name: str, value: Any) -> Any:
    if name == "last":
        return str(Reason(ReasonCode(value["code"]), value["parameters"]))
    if name.endswith("_bytes"):
        return size_words(value)
    if name == "failed":
        return ", ".join(f"{count} {Clause(ClauseKind(kind), resource)}" for kind, resource, count in value)
    return value
