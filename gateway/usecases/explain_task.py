"""Why a task waits, what would place it, and what it costs; also of a task that is not submitted yet.

The rules are in `explanation` and `wait_estimate`. Here is what they are asked with: the nodes
from Redis, and from SQL those who wait and what was started lately. Each is kept for a moment, so that
many questions cost one look.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gateway import messages as views
from gateway.auth.tokens import CallerIdentity
from gateway.caches.timed_cache import TimedCache
from gateway.context import Gateway
from gateway.usecases import dry_run, storage_quota, submit_task, task_order, tasks
from nodepool.domain.capabilities import needed
from nodepool.domain.errors import InvalidInputError, UnavailableError
from nodepool.domain.explain.explanation import PlacementExplanation, explain
from nodepool.domain.explain.pool_view import PoolView
from nodepool.domain.explain.wait_estimate import NOBODY_PLACES, NOTHING_KNOWN, QueueOrder, estimate
from nodepool.domain.money.ledger import PriceTerms
from nodepool.domain.money.pricing import is_covered, price_per_minute_cpt, to_hold_when_placed
from nodepool.domain.resources import Resources
from nodepool.domain.scheduling.fair_share import Decay
from nodepool.domain.scheduling.request import PlacementRequest, request_of, waiting_task
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask
from nodepool.domain.tasks import package_rules
from nodepool.domain.tasks.dependencies import waits_for
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.domain.tasks.reasons import ReasonCode, waits_for_cpt
from nodepool.domain.tasks.states import LocationMode, TaskKind, TaskState
from nodepool.domain.trust.access_limits import LIMITS, running_limit
from nodepool.domain.trust.tiers import Tier, task_tier
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis.usage import UsageStore
from nodepool.stores.sql import (
    placements as placing,
    queue_statistics,
    replicas as replica_store,
    tasks as task_store,
)
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.task_rows import OwnedTask, QueuedTask
from nodepool.wire import state_to_wire

_NODES_SECONDS, _QUEUE_SECONDS, _STARTS_SECONDS = 1.0, 2.0, 5.0
# As far back as tasks are counted that were started.
_WINDOW_SECONDS = 600.0
# The order of more than these is not played through; the count is of all.
_MAX_IN_ORDER = 20_000
# Tasks of equal needs have one explanation.
_MAX_EXPLAINED = 256
_NOBODY = "waiting: no dispatcher is working"
# A dry run may leave the id out.
_PLACEHOLDER_ID = "dry-run"


@dataclass(frozen=True, slots=True)
class _FleetView:
    """The fleet of one moment, and what was explained on it."""

    pool: PoolView
    explained: dict[PlacementRequest, PlacementExplanation] = field(default_factory=dict)

    def explain(self, wanted: PlacementRequest) -> PlacementExplanation:
        fleet = self.pool.fleet
        over = fleet.too_small_for(wanted.package_bytes)
        wanted = replace(
            wanted,
            owner_id=fleet.owner_that_counts(wanted.owner_id),
            over_bytes=over,
            package_bytes=wanted.package_bytes if over else 0,
        )
        found = self.explained.get(wanted)
        if found is None:
            found = explain(wanted, self.pool)
            if len(self.explained) < _MAX_EXPLAINED:
                self.explained[wanted] = found
        return found


@dataclass(frozen=True, slots=True)
class _QueueView:
    turns: QueueOrder
    waiting: int

    def limit(self) -> str:
        """Words for where not all of those who wait were looked at."""
        if self.waiting <= _MAX_IN_ORDER:
            return ""
        return f"; of {self.waiting} that wait only the oldest {_MAX_IN_ORDER} were put in order"


class Explainer:
    """Thread-safe. `monotonic` says how old what is kept is, in seconds."""

    def __init__(self, gateway: Gateway, monotonic: Callable[[], float] = time.monotonic) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._usage = UsageStore(gateway.redis, Decay(settings.fair_share_half_life_seconds))
        self._ageing = Ageing(
            settings.tier_ageing_seconds, settings.priority_ageing_seconds, settings.region_patience_seconds
        )
        self._nodes = TimedCache(self._look_at_nodes, _NODES_SECONDS, monotonic)
        self._queue = TimedCache(self._look_at_queue, _QUEUE_SECONDS, monotonic)
        self._starts = TimedCache(self._look_at_starts, _STARTS_SECONDS, monotonic)

    def explain(self, identity: CallerIdentity, request: pb.ExplainTaskRequest) -> pb.ExplainTaskResponse:
        """Raises InvalidInputError, NotFoundError, PermissionDeniedError or UnavailableError."""
        subject = request.WhichOneof("subject")
        if subject == "task":
            return self._of_dry_run(identity, request)
        if subject == "task_id":
            return self.of_task(tasks.find_own(self._gateway, identity, request.task_id))
        raise InvalidInputError("name a task_id, or describe a task for a dry run")

    def of_task(self, task: OwnedTask) -> pb.ExplainTaskResponse:
        """Whoever asks may know it."""
        row, not_owners = self._waiting_run(task)
        if row.state != TaskState.QUEUED:
            answer = pb.ExplainTaskResponse(
                success=True,
                message=views.status_message(row),
                state=state_to_wire(views.shown_state(row)),
                waits_for_others=row.state is TaskState.WAITING,
                estimate_basis=_basis(row),
            )
            return _priced(answer, _needs(row), row.max_minutes, task.replicas * (task.retries + 1))
        excluded, refused_by = self._had_it(row)
        waited = self._gateway.clock() - (row.queued_at or row.created_at)
        left = self._gateway.settings.region_patience_seconds - waited
        relaxed = row.location_mode == LocationMode.PREFER and left <= 0
        wanted = self._request_of(row, excluded, not_owners, relaxed=relaxed, refused_by=refused_by)
        wanted = replace(wanted, package_bytes=row.package_bytes)
        answer = self._of_waiting(wanted, self._queued(row, wanted), left)
        answer.state = task.state
        self._add_held(answer, row)
        self._add_unpaid(answer, row)
        self._add_next_try(answer, row)
        return _priced(answer, wanted.needs, row.max_minutes, task.replicas * (task.retries + 1))

    def _had_it(self, row: OwnedTask) -> tuple[frozenset[str], frozenset[str]]:
        """Nodes that come after all others for it, and nodes that cannot have it."""
        nobody: frozenset[str] = frozenset()
        if not row.attempt_number:
            return nobody, nobody
        now = self._gateway.clock()
        failed, refused = self._gateway.database.read(
            lambda c: (placing.failed_nodes(c, [row.id]), placing.refusing_nodes(c, [row.id], now))
        )
        return failed.get(row.id, nobody), refused.get(row.id, nobody)

    def _waiting_run(self, task: OwnedTask) -> tuple[OwnedTask, frozenset[int]]:
        """Of a task with several runs one that waits, and the owners whose nodes may not have it."""
        if task.replicas == 1 or views.is_final(task):
            return task, frozenset()
        run = self._gateway.database.read(lambda c: task_store.waiting_run(c, task.id))
        if run is None:
            return task, frozenset()
        kept_from = self._gateway.database.read(lambda c: replica_store.not_owners(c, [run.id]))
        return run, kept_from[run.id]

    def _add_held(self, answer: pb.ExplainTaskResponse, row: OwnedTask) -> None:
        """Where its owner has as much running as they may, the nodes are not what it waits for."""
        running = self._gateway.database.read(lambda c: placing.running_of(c, [row.owner_id]))
        count = running.get(row.owner_id, 0)
        if count < LIMITS[Tier(row.tier)].running_tasks:
            return
        answer.message = str(running_limit(count, Tier(row.tier)))
        answer.places_now, answer.best_node = False, ""
        answer.estimated_wait_seconds, answer.estimate_basis = (
            NOTHING_KNOWN,
            "some of those have to end first",
        )

    def _add_unpaid(self, answer: pb.ExplainTaskResponse, row: OwnedTask) -> None:
        """Where its owner cannot hold what placing it takes, no node helps."""
        to_hold = to_hold_when_placed(row)
        if not to_hold:
            return
        balance, held = self._gateway.database.read(lambda c: ledger_store.balance(c, row.owner_id))
        if is_covered(balance, to_hold):
            return
        answer.message = f"{waits_for_cpt(to_hold)}: {balance} CPT, and {held} are held by other tasks"
        answer.waits_for_money = True
        answer.places_now, answer.best_node = False, ""
        answer.estimated_wait_seconds, answer.estimate_basis = (
            NOTHING_KNOWN,
            "its owner has to have CPT first",
        )

    def _add_next_try(self, answer: pb.ExplainTaskResponse, row: OwnedTask) -> None:
        """Where its next try is not due yet, neither nodes nor money are what it waits for."""
        if not row.wait_until:
            return
        left = max(0.0, row.wait_until - self._gateway.clock())
        answer.message = f"{row.reason} in {left:.0f} s"
        answer.places_now, answer.best_node, answer.position = False, "", 0
        answer.estimated_wait_seconds, answer.estimate_basis = left, "its next try is due then"

    def _of_dry_run(self, identity: CallerIdentity, request: pb.ExplainTaskRequest) -> pb.ExplainTaskResponse:
        """What submitting it now would meet. Refused for what a submit would be refused for."""
        task = request.task
        size = dry_run.package_size(request)
        package_rules.check_announced(
            size, request.unpacked_bytes, request.package_entries, self._gateway.settings.package_limits
        )
        task.task_id = task.task_id or _PLACEHOLDER_ID
        columns = submit_task.requested_task(self._gateway, task)
        if request.tasks:
            columns["capabilities"] = needed(has_inputs=True, has_secrets=bool(columns["secrets"]))
        found = dry_run.check(self._gateway, identity, columns, request)
        now = self._gateway.clock()
        # As its row would be; no task has an empty id.
        row = _as_queued(columns, identity.user_id, task_tier(found.score), now, size)
        replicas = columns["replicas"]
        # The first of several runs is kept from its owner's own nodes.
        not_owners = frozenset({identity.user_id} if replicas > 1 else ())
        wanted = replace(self._request_of(row, frozenset(), not_owners), package_bytes=size)
        patience = self._gateway.settings.region_patience_seconds
        answer = self._of_waiting(wanted, self._queued(row, wanted), patience)
        answer.stored_bytes = found.stored_bytes
        answer.stored_bytes_limit = storage_quota.bound(self._gateway, found.score)
        answer.result_days = self._gateway.settings.result_days
        answer.minutes_by_balance = found.minutes_by_balance
        answer.array_most_cpt = found.array_most_cpt
        after = self._gateway.database.read(lambda c: task_order.unmet(c, columns, identity.user_id))
        if after:
            answer.message = str(waits_for(after))
            answer.waits_for_others, answer.places_now, answer.best_node = True, False, ""
        return _priced(answer, wanted.needs, found.max_minutes, replicas * (columns["retries"] + 1))

    def _of_waiting(
        self, wanted: PlacementRequest, task: WaitingTask, patience_left: float
    ) -> pb.ExplainTaskResponse:
        try:
            nodes, queue, starts = self._nodes.get(), self._queue.get(), self._starts.get()
        except UnavailableError as error:
            raise UnavailableError(
                f"nothing can be said of what waits while a part of the pool is away: {error}. "
                "A task that was accepted is kept, and is placed as soon as the part is back"
            ) from error
        explanation = nodes.explain(wanted)
        decision = explanation.decision
        place, ahead = queue.turns.place_of(task.task_id) or queue.turns.place_for(task)
        position = place if task.task_id else 0
        wait = estimate(
            explanation,
            ahead=ahead,
            starts=sum(starts.get(node_id, 0) for node_id in explanation.could_run),
            window_seconds=_WINDOW_SECONDS,
            patience_left=patience_left,
        )
        works = self._gateway.health.dispatcher_works()
        if not works:
            wait = NOBODY_PLACES
        best = decision.ranked[0] if decision.ranked and works else ""
        return pb.ExplainTaskResponse(
            success=True,
            message=explanation.sentence() if works else f"{_NOBODY}; {explanation.sentence()}",
            places_now=bool(best),
            best_node=best,
            nodes_looked_at=decision.looked_at,
            failed=[
                pb.FailedClause(clause=str(clause), nodes=count)
                for clause, count in decision.failed.most_common()
            ],
            can_never_run=explanation.can_never_run,
            suggestions=[
                pb.Suggestion(field=one.field, value=one.value, sentence=one.sentence, nodes=one.nodes)
                for one in explanation.suggestions
            ],
            position=position,
            waiting_tasks=max(queue.waiting, position),
            estimated_wait_seconds=wait.seconds,
            estimate_basis=wait.basis + queue.limit(),
        )

    # -- what is kept --------------------------------------------------------------------------------
    def _look_at_nodes(self) -> _FleetView:
        settings = self._gateway.settings
        held_back = self._gateway.database.read(
            lambda c: queue_statistics.held_back(c, settings.probation_after)
        )
        return _FleetView(
            PoolView.of(
                self._gateway.registry.snapshot(settings.node_late_seconds),
                default_memory_mb=settings.default_task_memory_mb,
                patience_seconds=settings.region_patience_seconds,
                allow_pushed=settings.push_to_nodes,
                least_owners=settings.check_owners_least,
                held_back=held_back,
            )
        )

    def _look_at_queue(self) -> _QueueView:
        now = self._gateway.clock()
        rows, waiting = self._gateway.database.read(
            lambda c: (queue_statistics.oldest_waiting(c, _MAX_IN_ORDER), queue_statistics.count_waiting(c))
        )
        served = self._usage.of({row.owner_id for row in rows}, now)
        hopeless = frozenset(row.id for row in rows if row.reason_code == ReasonCode.NO_NODE_EVER)
        queue = [self._queued(row, self._request_of(row, frozenset(), frozenset())) for row in rows]
        return _QueueView(QueueOrder(queue, self._ageing, served, now, hopeless=hopeless), waiting)

    def _look_at_starts(self) -> dict[str, int]:
        since = self._gateway.clock() - _WINDOW_SECONDS
        return self._gateway.database.read(lambda c: queue_statistics.starts_since(c, since))

    def _request_of(
        self,
        row: OwnedTask | QueuedTask,
        excluded: frozenset[str],
        not_owners: frozenset[int],
        *,
        relaxed: bool = False,
        refused_by: frozenset[str] = frozenset(),
    ) -> PlacementRequest:
        return request_of(
            row,
            excluded,
            not_owners,
            self._gateway.settings.default_image,
            relaxed=relaxed,
            owner_id=row.owner_id,
            refused_by=refused_by,
        )

    def _queued(self, row: OwnedTask | QueuedTask, wanted: PlacementRequest) -> WaitingTask:
        # Whose it is makes no difference to its place in the wait queue.
        return waiting_task(
            row, replace(wanted, owner_id=0, package_bytes=0), self._gateway.settings.default_task_memory_mb
        )


def _as_queued(
    columns: RequestedTask, owner_id: int, tier: Tier, now: float, package_bytes: int
) -> QueuedTask:
    return QueuedTask(
        id="",
        owner_id=owner_id,
        kind=TaskKind.USER,
        tier=tier,
        min_trust=columns["min_trust"],
        region=columns["region"],
        location_mode=columns["location_mode"],
        gpu_name=columns["gpu_name"],
        pinned_node=columns["pinned_node"],
        image=columns["image"],
        network=columns["network"],
        capabilities=columns["capabilities"],
        secrets=columns["secrets"],
        secrets_on_low_trust=columns["secrets_on_low_trust"],
        cpu_score=columns["cpu_score"],
        memory_gb=columns["memory_gb"],
        memory_mb=columns["memory_mb"],
        gpu_score=columns["gpu_score"],
        gpu_memory_gb=columns["gpu_memory_gb"],
        package_bytes=package_bytes,
        priority=columns["priority"],
        created_at=now,
        queued_at=now,
        attempt_number=0,
        attempts_ended=0,
        job_id="",
        job_index=0,
        price_per_minute=0,
        max_minutes=columns["max_minutes"],
        holds_when_placed=False,
        hold_again=0,
        reason_code="",
    )


def _basis(row: OwnedTask) -> str:
    """Why nothing is estimated of a task that does not wait for a node."""
    if views.is_held_back(row):
        return "its result is being checked"
    if row.state is TaskState.WAITING:
        return "what it comes after has to end first"
    return "it has ended" if views.is_final(row) else "it has a node"


def _needs(row: OwnedTask) -> Resources:
    return Resources(row.cpu_score, row.memory_gb, row.gpu_score, row.gpu_memory_gb, row.memory_mb)


def _priced(
    answer: pb.ExplainTaskResponse, needs: Resources, max_minutes: int, runs: int
) -> pb.ExplainTaskResponse:
    answer.price_per_minute_cpt = price_per_minute_cpt(needs)
    answer.max_price_cpt = PriceTerms(answer.price_per_minute_cpt, max_minutes, runs).amount
    answer.max_minutes = max_minutes
    return answer
