"""The node registry: which nodes are there now, what is reserved on them, what they report.

Redis knows the present and may forget it: sync_node() writes it again from SQL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast

import redis

from nodepool.domain import bounded_json
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.resources import MAX_AMOUNT, RESOURCE_NAMES, Claim
from nodepool.domain.scheduling.reclaim import MeasuredUse
from nodepool.domain.trust.tiers import Tier
from nodepool.messaging.names import node_queue
from nodepool.stores.redis import keys, scripts
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull
from nodepool.stores.redis.liveness import age_of
from nodepool.stores.redis.script_calls import Call, run_all

# A report is small; more than this is not one.
MAX_REPORT_BYTES = 256 * 1024
_MAX_REPORT_DEPTH = 4
# However large they all are, one answer of the server can be held.
_REPORTS_AT_ONCE = 200
# A reservation that SQL does not know is left alone for this long: its placement may be about to commit.
PENDING_SECONDS = 30.0
_AT_ONCE = 1000
_MEBIBYTE = 1 << 20
_MAX_BYTES = MAX_AMOUNT * _MEBIBYTE
# Attempt id -> claim, assigned at, stop.
Assignments = Mapping[str, tuple[Claim, float, bool]]
_CLAIM_FIELDS = tuple(field.name for field in fields(Claim))
# Facts that are kept as they are.
_AS_THEY_ARE = (
    *("tier", "region", "gpu_name", "kind", "quality"),
    *("unfit", "capabilities", "message_bytes", "generation"),
)


class RegistryAnswer(StrEnum):
    """What became of a change of what is reserved on a node: the words of the scripts."""

    OK = "ok"
    AGAIN = "again"  # the attempt has it already
    GONE = "gone"
    DRAINING = "draining"
    OWNER_ONLY = "owner only"
    ON_TRIAL = "on trial"
    FULL_CPU_SCORE = "full cpu_score"
    FULL_MEMORY_MB = "full memory_mb"
    FULL_GPU_SCORE = "full gpu_score"
    FULL_GPU_MEMORY_GB = "full gpu_memory_gb"
    FULL_TASKS = "full tasks"

    @property
    def is_reserved(self) -> bool:
        return self in (RegistryAnswer.OK, RegistryAnswer.AGAIN)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node last said. `age_seconds` by the pool's clock, from the key's TTL."""

    cpu_percent: float
    memory_percent: float
    running: tuple[str, ...]
    age_seconds: float
    # Of the running attempts that were measured.
    uses: Mapping[str, MeasuredUse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reservation:
    """`owner_id` is the task's owner. `one_task`: a node that is on trial gets no second one now."""

    node_id: str
    attempt_id: str
    claim: Claim
    owner_id: int = 0
    one_task: bool = False


class NodeRegistry:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._reserve = client.register_script(scripts.EVEN_WHEN_FULL + scripts.RESERVE)
        self._release = client.register_script(scripts.EVEN_WHEN_FULL + scripts.RELEASE)
        self._resize = client.register_script(scripts.EVEN_WHEN_FULL + scripts.RESIZE)
        self._rebuild = client.register_script(scripts.EVEN_WHEN_FULL + scripts.REBUILD)
        self._mark_stop = client.register_script(scripts.EVEN_WHEN_FULL + scripts.MARK_STOP)
        self._put_node = client.register_script(scripts.EVEN_WHEN_FULL + scripts.PUT_NODE)
        self._always = EvenWhenFull(client)
        self._reports = client.register_script(scripts.REPORTS)

    def put_node(self, node: RegisteredNode) -> None:
        self.put_nodes([node])

    def put_nodes(self, nodes: Sequence[RegisteredNode]) -> None:
        """Each whole or not at all, many in one round trip."""
        for start in range(0, len(nodes), _AT_ONCE):
            with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
                for node in nodes[start : start + _AT_ONCE]:
                    facts = (part for pair in _facts(node).items() for part in pair)
                    self._put_node(
                        keys=[keys.facts(node.node_id), keys.NODES],
                        args=[node.node_id, keys.NODE_EVENTS_CHANNEL, *facts],
                        client=pipe,
                    )
                pipe.execute()

    def remove_node(self, node_id: str) -> None:
        with translated_errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(keys.NODES, node_id)
            pipe.delete(
                *(name(node_id) for name in (keys.facts, keys.report, keys.reserved, keys.assigned)),
                keys.instance(node_id),
                node_queue(node_id),
            )
            pipe.publish(keys.NODE_EVENTS_CHANNEL, node_id)
            pipe.execute()

    def announce(self, *node_ids: str) -> None:
        """Tell the dispatchers that nodes have more room, or that something else of them changed. A hint:
        who misses it sees it at their next look at the whole fleet."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for node_id in node_ids:
                pipe.publish(keys.NODE_EVENTS_CHANNEL, node_id)
            pipe.execute()

    def announce_owner(self, owner_id: int) -> None:
        """Tell the dispatchers that other nodes are open to the user's waiting tasks. A hint too."""
        with translated_errors():
            self._redis.publish(keys.OWNER_EVENTS_CHANNEL, owner_id)

    def queue_lengths(self, queues: Iterable[str]) -> dict[str, int]:
        """How many messages wait in these queues of the dispatchers'."""
        names = list(queues)
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for queue in names:
                pipe.llen(queue)
            return dict(zip(names, pipe.execute(), strict=True))

    def node_ids(self) -> set[str]:
        with translated_errors():
            members = cast("set[bytes]", self._redis.smembers(keys.NODES))
        return {member.decode() for member in members}

    def snapshot(self, late_seconds: float) -> list[NodeView]:
        """Every registered node as placement sees it."""
        return [view for view in self.views(sorted(self.node_ids()), late_seconds) if view is not None]

    def views(self, node_ids: Sequence[str], late_seconds: float) -> Iterator[NodeView | None]:
        """These nodes as placement sees them, in this order; None for one that is not registered."""
        for start in range(0, len(node_ids), _AT_ONCE):
            ids = node_ids[start : start + _AT_ONCE]
            with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
                for node_id in ids:
                    pipe.hgetall(keys.facts(node_id))
                    pipe.hgetall(keys.reserved(node_id))
                    pipe.pttl(keys.report(node_id))
                answers = pipe.execute()
            for index, node_id in enumerate(ids):
                facts, reserved, pttl = answers[3 * index : 3 * index + 3]
                online = age_of(pttl) <= late_seconds
                yield _view(node_id, facts, reserved, online=online) if facts else None

    def reports(self, node_ids: Iterable[str]) -> dict[str, NodeReport | None]:
        """The last report of each; None for none, or one that cannot be read."""
        ids, found = list(node_ids), {}
        for start in range(0, len(ids), _REPORTS_AT_ONCE):
            chunk = ids[start : start + _REPORTS_AT_ONCE]
            names = [keys.report(node_id) for node_id in chunk]
            with translated_errors():
                facts, *bodies = cast("list[bytes]", self._reports(keys=names, args=[MAX_REPORT_BYTES]))
            for node_id, fact, body in zip(chunk, facts.split(b","), bodies, strict=True):
                size, _, pttl = fact.partition(b":")
                found[node_id] = _report(int(size), body, int(pttl))
        return found

    def write_report(self, node_id: str, *, at: float) -> None:
        """On behalf of a node that is pushed to and says over gRPC that it is alive."""
        body = json.dumps({"v": 1, "at": at, "cpu_percent": 0, "memory_percent": 0, "running": []})
        with translated_errors():
            self._always("SET", keys.report(node_id), body, "EX", keys.REPORT_TTL_SECONDS)

    def take_report(self, node_id: str, report: bytes) -> None:
        """What an agent would write itself, if it reached the broker."""
        with translated_errors():
            self._redis.set(keys.report(node_id), report, ex=keys.REPORT_TTL_SECONDS)

    def reserve_all(self, wanted: Sequence[Reservation], *, at: float) -> list[RegistryAnswer]:
        """Check and subtract under the attempts' ids, many in one round trip, each whole or not at all."""
        calls = [
            (
                _room_keys(it.node_id),
                [
                    it.attempt_id,
                    _entry(it.claim, at=at, stop=False),
                    it.owner_id,
                    int(it.one_task),
                    *_pairs(it.claim),
                ],
            )
            for it in wanted
        ]
        with translated_errors():
            answers = run_all(self._redis, self._reserve, calls)
        return [RegistryAnswer(answer.decode()) for answer in answers]

    def release(self, node_id: str, attempt_id: str) -> bool:
        """Take the attempt off, with what is allocated to it now. False when it was not there."""
        with translated_errors():
            return bool(
                self._release(keys=[keys.reserved(node_id), keys.assigned(node_id)], args=[attempt_id])
            )

    def release_all(self, attempts: Sequence[tuple[str, str]]) -> None:
        """`release` for many (node, attempt), in few round trips."""
        calls = [([keys.reserved(node), keys.assigned(node)], [attempt]) for node, attempt in attempts]
        with translated_errors():
            for start in range(0, len(calls), _AT_ONCE):
                run_all(self._redis, self._release, calls[start : start + _AT_ONCE])

    def assigned(self, node_id: str) -> set[str]:
        """The ids of the attempts that are listed for the node."""
        with translated_errors():
            names = cast("list[bytes]", self._redis.hkeys(keys.assigned(node_id)))
        return {name.decode() for name in names}

    def resize_all(self, wanted: Sequence[tuple[str, Mapping[str, Claim]]]) -> list[RegistryAnswer]:
        """Change what is allocated to attempts, many nodes in one round trip, each node's all or none."""
        calls = [
            (
                _room_keys(node_id),
                [it for name, claim in allocations.items() for it in (name, json.dumps(asdict(claim)))],
            )
            for node_id, allocations in wanted
        ]
        with translated_errors():
            answers = run_all(self._redis, self._resize, calls)
        return [RegistryAnswer(answer.decode()) for answer in answers]

    def allocations(self, node_ids: Iterable[str]) -> dict[str, dict[str, Claim]]:
        """What is allocated on each node: attempt id -> amounts."""
        ids = list(node_ids)
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for node_id in ids:
                pipe.hgetall(keys.assigned(node_id))
            answers = pipe.execute() if ids else []
        return {
            node_id: {name.decode(): Claim(**json.loads(text)["claim"]) for name, text in listed.items()}
            for node_id, listed in zip(ids, answers, strict=True)
        }

    def mark_stop(self, node_id: str, attempt_id: str) -> None:
        self.mark_stops([(node_id, attempt_id)])

    def mark_stops(self, attempts: Sequence[tuple[str, str]]) -> None:
        """Of many (node, attempt), in few round trips."""
        calls = [([keys.assigned(node_id)], [attempt_id]) for node_id, attempt_id in attempts]
        with translated_errors():
            for start in range(0, len(calls), _AT_ONCE):
                run_all(self._redis, self._mark_stop, calls[start : start + _AT_ONCE])

    def rebuild(self, node_id: str, live: Assignments, *, now: float, ended: Collection[str] = ()) -> None:
        """List what SQL says. What is listed already keeps its allocation, and what has ended goes.

        Others, of which SQL knows nothing, stay for PENDING_SECONDS after they were made.
        """
        with translated_errors():
            run_all(self._redis, self._rebuild, [_rebuilding(node_id, live, now, ended)])

    def rebuild_all(self, live: Mapping[str, Assignments], *, now: float) -> None:
        """`rebuild` of many nodes in one round trip."""
        with translated_errors():
            run_all(
                self._redis,
                self._rebuild,
                [_rebuilding(node_id, its, now, ()) for node_id, its in live.items()],
            )


def _rebuilding(node_id: str, live: Assignments, now: float, ended: Collection[str]) -> Call:
    """Keys and arguments of REBUILD."""
    entries = [
        part
        for attempt, (claim, at, stop) in live.items()
        for part in (attempt, _entry(claim, at=at, stop=stop))
    ]
    return _room_keys(node_id), [now - PENDING_SECONDS, len(ended), *ended, *entries]


def _room_keys(node_id: str) -> list[str]:
    """Those of scripts that change what is reserved."""
    return [keys.facts(node_id), keys.reserved(node_id), keys.assigned(node_id)]


def _facts(node: RegisteredNode) -> dict[str, str | int | float]:
    return {
        **{name: getattr(node, name) for name in _AS_THEY_ARE},
        "draining": int(node.draining),
        "owner": node.owner_id,
        "owner_only": int(node.owner_only),
        "on_trial": int(node.on_trial),
        "backs_off": int(node.backs_off),
        "absent_images": "\n".join(node.absent_images),
        **{f"capacity_{name}": getattr(node.capacity, name) for name in _CLAIM_FIELDS},
    }


def _entry(claim: Claim, *, at: float, stop: bool) -> str:
    return f'{{"at": {round(at, 3)}, "stop": {"true" if stop else "false"}, "claim": {_as_json(claim)}}}'


# Many tasks ask for the same.
@lru_cache(maxsize=4096)
def _as_json(claim: Claim) -> str:
    return json.dumps(asdict(claim))


@lru_cache(maxsize=4096)
def _pairs(claim: Claim) -> tuple[str | int, ...]:
    """Name and amount of what is asked for at all."""
    return tuple(
        part for name in _CLAIM_FIELDS if getattr(claim, name) for part in (name, getattr(claim, name))
    )


def _view(node_id: str, facts: dict[bytes, bytes], reserved: dict[bytes, bytes], *, online: bool) -> NodeView:
    return NodeView(
        node_id=node_id,
        tier=Tier(facts[b"tier"].decode()),
        region=facts[b"region"].decode(),
        gpu_name=facts[b"gpu_name"].decode(),
        draining=facts[b"draining"] == b"1",
        kind=NodeKind(facts[b"kind"].decode()),
        online=online,
        capacity=Claim(**{name: int(facts[f"capacity_{name}".encode()]) for name in RESOURCE_NAMES}),
        reserved=Claim(**{name: int(reserved.get(name.encode(), 0)) for name in RESOURCE_NAMES}),
        quality=float(facts.get(b"quality", 1.0)),
        owner_id=int(facts.get(b"owner", 0)),
        owner_only=facts.get(b"owner_only") != b"0",
        on_trial=facts.get(b"on_trial") == b"1",
        unfit=facts.get(b"unfit", b"").decode(),
        backs_off=facts.get(b"backs_off") == b"1",
        absent_images=tuple(facts.get(b"absent_images", b"").decode().splitlines()),
        capabilities=facts.get(b"capabilities", b"").decode(),
        message_bytes=int(facts.get(b"message_bytes", 0)),
        generation=facts.get(b"generation", b"").decode(),
    )


def _report(size: int, body: bytes, pttl: int) -> NodeReport | None:
    """Reports come from strangers: anything that is not as it should be is no report's content."""
    if not size:
        return None
    age = age_of(pttl)
    try:
        if size > MAX_REPORT_BYTES:
            raise ValueError
        # Numbers are looked at one by one below.
        parsed = bounded_json.loads(
            body, max_bytes=MAX_REPORT_BYTES, max_depth=_MAX_REPORT_DEPTH, endless_numbers=True
        )
        runs = {str(run["attempt_id"])[:200]: run for run in parsed.get("running", [])[:512]}
        uses = {name: use for name, run in runs.items() if (use := _use(run)) is not None}
        percents = _percent(parsed["cpu_percent"]), _percent(parsed["memory_percent"])
        return NodeReport(*percents, tuple(runs), age, uses)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return NodeReport(0.0, 0.0, (), age)


def _use(run: Mapping[str, object]) -> MeasuredUse | None:
    """None for what is no measurement: not a number, negative, endless, or a run without any memory."""
    points, memory_bytes = run.get("cpu_score"), run.get("memory_bytes")
    if not isinstance(points, int | float) or not isinstance(memory_bytes, int | float):
        return None
    if not (0 <= points < math.inf and 0 < memory_bytes < math.inf):
        return None
    return MeasuredUse(
        math.ceil(min(points, MAX_AMOUNT)), math.ceil(min(memory_bytes, _MAX_BYTES) / _MEBIBYTE)
    )


def _percent(value: object) -> float:
    number = float(cast(Any, value))
    return min(100.0, max(0.0, number)) if number == number else 0.0  # noqa: PLR0124 - NaN
