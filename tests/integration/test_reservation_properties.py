"""Whatever happens in whatever order, a node's reservations are the sum of what is listed, and fit.

A state machine plays dispatchers, sweeps, nodes and a Redis that forgets against the real scripts.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import redis
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.reclaim import MeasuredUse, RunView, plan
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.redis.node_registry import PENDING_SECONDS, NodeRegistry
from tests.support.environment import LONG
from tests.support.reservations import reserve, resize
from tests.support.valkey import TestValkey

NODE = "owner/n1"
CAPACITY = Claim(cpu_score=3000, memory_mb=2000, gpu_score=100, gpu_memory_gb=4, tasks=6)
NAMES = tuple(field.name for field in fields(Claim))
GONE = "gone:1"

claims = st.builds(
    Claim,
    cpu_score=st.integers(0, 2500),
    memory_mb=st.integers(32, 1500),
    gpu_score=st.sampled_from([0, 0, 60]),
    gpu_memory_gb=st.sampled_from([0, 0, 3]),
)
which = st.integers(0, 9)
shares = st.floats(0, 1)
uses = st.builds(MeasuredUse, st.integers(0, 4000), st.integers(0, 3000))


class Node(RuleBasedStateMachine):
    """One node, what SQL says of it, and the placements that are not in SQL yet."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.registry = NodeRegistry(self.client)
        self.now = 1_000_000.0
        self.count = 0
        self.capacity = CAPACITY
        self.in_sql: dict[str, tuple[Claim, float]] = {}
        self.pending: dict[str, tuple[Claim, float]] = {}
        self.ended = [GONE]
        self.client.flushall()
        self.put()

    def put(self) -> None:
        self.registry.put_node(RegisteredNode(NODE, Tier.HIGH, "asia", "", "agent", False, self.capacity))

    def live(self) -> dict[str, tuple[Claim, float, bool]]:
        return {name: (claim, at, False) for name, (claim, at) in self.in_sql.items()}

    def listed(self) -> dict[str, Claim]:
        return self.registry.allocations([NODE])[NODE]

    # -- dispatchers -----------------------------------------------------------------------------------
    @rule(claim=claims, committed=st.booleans())
    def place(self, claim: Claim, *, committed: bool) -> None:
        self.count += 1
        name = f"t{self.count}:1"
        if reserve(self.registry, NODE, name, claim, at=self.now) == "ok":
            (self.in_sql if committed else self.pending)[name] = claim, self.now

    @rule()
    def commit(self) -> None:
        if self.pending:
            name = next(iter(self.pending))
            self.in_sql[name] = self.pending.pop(name)

    @rule()
    def give_back(self) -> None:
        if self.pending:
            name, _ = self.pending.popitem()
            self.registry.release(NODE, name)
            self.ended.append(name)

    @rule()
    def dispatcher_dies(self) -> None:
        """What it had reserved and not placed stays behind."""
        self.ended += self.pending
        self.pending.clear()

    # -- ends ------------------------------------------------------------------------------------------
    @rule(index=which, told=st.booleans())
    def end(self, index: int, *, told: bool) -> None:
        if self.in_sql:
            name = list(self.in_sql)[index % len(self.in_sql)]
            del self.in_sql[name]
            self.ended.append(name)
            if told:
                self.registry.release(NODE, name)

    @rule(index=which)
    def release_again(self, index: int) -> None:
        self.registry.release(NODE, self.ended[index % len(self.ended)])

    # -- the sweep -------------------------------------------------------------------------------------
    @rule()
    def rebuild(self) -> None:
        before = self.listed()
        self.registry.rebuild(NODE, self.live(), now=self.now)
        after = self.listed()
        assert self.in_sql.keys() <= after.keys()
        for name in before.keys() & after.keys():
            assert all(asdict(after[name])[it] <= amount for it, amount in asdict(before[name]).items())
        assert self.pending.keys() & before.keys() <= after.keys()

    @rule()
    def time_passes(self) -> None:
        self.now += PENDING_SECONDS + 1
        self.dispatcher_dies()

    @rule()
    def redis_forgets(self) -> None:
        self.client.flushall()
        self.dispatcher_dies()
        self.put()
        self.rebuild()

    @rule(cpu=st.integers(0, 4000), memory=st.integers(0, 3000))
    def hardware_changes(self, cpu: int, memory: int) -> None:
        self.capacity = replace(self.capacity, cpu_score=cpu, memory_mb=memory)
        self.put()
        self.rebuild()

    @rule(index=which)
    def stop(self, index: int) -> None:
        self.registry.mark_stop(NODE, (list(self.in_sql) or [GONE])[index % max(1, len(self.in_sql))])

    @rule(share=shares)
    def shrink_all(self, share: float) -> None:
        self.resize_all(share)

    @rule()
    def grow_all(self) -> None:
        self.resize_all(1.0)

    def resize_all(self, share: float) -> None:
        wanted = {
            name: replace(
                claim, cpu_score=int(claim.cpu_score * share), memory_mb=int(claim.memory_mb * share)
            )
            for name, (claim, _) in self.in_sql.items()
        }
        if wanted:
            resize(self.registry, NODE, wanted)

    # -- reports ---------------------------------------------------------------------------------------
    @rule(index=which, share=shares, other=which, other_share=shares)
    def resize(self, index: int, share: float, other: int, other_share: float) -> None:
        """Two at once, to whatever below their claims; also of attempts that are not there."""
        known = {**self.in_sql, GONE: (CAPACITY, 0.0)}
        wanted = {}
        for at, part in ((index, share), (other, other_share)):
            name = list(known)[at % len(known)]
            claim, _ = known[name]
            wanted[name] = replace(
                claim, cpu_score=int(claim.cpu_score * part), memory_mb=int(claim.memory_mb * part)
            )
        before = self.listed()
        answer = resize(self.registry, NODE, wanted)
        after = self.listed()
        assert after == ({**before, **wanted} if answer == "ok" else before)
        if answer == "gone":
            assert not wanted.keys() <= before.keys()

    @rule(told=st.lists(st.none() | uses, min_size=6, max_size=6), pressed=st.booleans())
    def report(self, told: list[MeasuredUse | None], *, pressed: bool) -> None:
        """A node tells anything at all, and the allocator does what the rules say."""
        listed = self.listed()
        runs = [
            RunView(
                attempt_id=name,
                claim=claim,
                kept=listed[name],
                placed_at=at,
                credit_score=len(name),
                last=use,
                peak=use,
            )
            for (name, (claim, at)), use in zip(self.in_sql.items(), told, strict=False)
            if name in listed
        ]
        others = [claim for name, claim in listed.items() if name not in {run.attempt_id for run in runs}]
        room = replace(
            self.capacity,
            cpu_score=self.capacity.cpu_score - sum(claim.cpu_score for claim in others),
            memory_mb=self.capacity.memory_mb - sum(claim.memory_mb for claim in others),
        )
        made = plan(runs, room=room, margin=0.25, restore=pressed, may_evict=not others)
        if made.allocations:
            # Nobody else changed anything meanwhile: what the rules say must fit.
            assert resize(self.registry, NODE, made.allocations) == "ok"
        if made.victim:
            del self.in_sql[made.victim]
            self.registry.release(NODE, made.victim)
            self.ended.append(made.victim)

    # -- always ----------------------------------------------------------------------------------------
    @invariant()
    def reservations_are_the_sum_of_what_is_listed_and_fit(self) -> None:
        (view,) = self.registry.snapshot(15)
        listed = self.listed()
        for name in NAMES:
            amounts = [getattr(claim, name) for claim in listed.values()]
            assert min(amounts, default=0) >= 0
            assert getattr(view.reserved, name) == sum(amounts)
            assert sum(amounts) <= getattr(self.capacity, name)
        for name, (claim, _) in self.in_sql.items():
            if name in listed:
                assert all(
                    asdict(listed[name])[resource] <= amount for resource, amount in asdict(claim).items()
                )


def test_reservations_never_exceed_the_capacity(valkey: TestValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        machine = type("MachineOfOneNode", (Node,), {"client": client})
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=400 if LONG else 35,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
