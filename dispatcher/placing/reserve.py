"""What is planned becomes so: reserved in Redis, placed in SQL, told to the nodes."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass

from dispatcher.context import Dispatcher
from dispatcher.placing.aside import Aside
from dispatcher.placing.fleet_mirror import FleetMirror
from nodepool.domain import ids
from nodepool.domain.errors import NotEnoughCptError, StaleAttemptError
from nodepool.domain.scheduling.planner import Planned, Planner
from nodepool.domain.tasks.reasons import Reason
from nodepool.stores.redis.node_registry import Reservation
from nodepool.stores.sql import placements as placing
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.placements import Placement

_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class PlacementRound:
    """What became of what was planned."""

    placed: list[Planned]
    refused: list[Planned]  # no room after all; in the wait queue again
    moved: list[Planned]  # stopped, or somebody else has placed them
    unpaid: list[Planned]  # their owner has no money for them after all; in the wait queue again


def reserve_and_place(
    dispatcher: Dispatcher,
    planner: Planner,
    fleet_mirror: FleetMirror,
    aside: Aside,
    planned: list[Planned],
) -> PlacementRound:
    """What Redis refuses goes back into the wait queue, with a fresh look at its node."""
    now = dispatcher.clock()
    wanted = {it.task.task_id: _placement(it) for it in planned}
    tiers = {it.task.task_id: it.task.requirements.tier for it in planned}
    try:
        answers = dispatcher.registry.reserve_all(
            [
                Reservation(
                    it.node_id,
                    it.attempt_id,
                    it.claim,
                    it.owner_id,
                    one_task=planner.fleet.gets_one_task(it.node_id, tiers[it.task_id]),
                )
                for it in wanted.values()
            ],
            at=now,
        )
        fits = [answer.is_reserved for answer in answers]
        reserved = [placement for placement, fit in zip(wanted.values(), fits, strict=True) if fit]
        done = _place(dispatcher, reserved, now) if reserved else placing.Placed()
    except BaseException:
        # What of it was done is not known: SQL tells when the tasks are tried again.
        for it in planned:
            planner.queue.add(it.task, now)
        raise
    refused = [it for it, fit in zip(planned, fits, strict=True) if not fit]
    placed = [it for it in planned if it.task.task_id in done.placed]
    unpaid = [it for it in planned if it.task.task_id in done.unpaid]
    left = {it.task.task_id for it in (*placed, *unpaid)}
    moved = [it for it, fit in zip(planned, fits, strict=True) if fit and it.task.task_id not in left]
    for it in (*moved, *unpaid):
        _give_back(dispatcher, wanted[it.task.task_id])
    fleet_mirror.read({it.node_id for it in (*refused, *moved, *unpaid)}, now)
    for it in (*refused, *unpaid):
        planner.queue.add(it.task, now)
    _publish(dispatcher, planner, aside, [wanted[it.task.task_id] for it in placed])
    return PlacementRound(placed, refused, moved, unpaid)


def _place(dispatcher: Dispatcher, reserved: list[Placement], now: float) -> placing.Placed:
    """Who can pay is read without a lock; where their money went elsewhere meanwhile, under one."""
    write = dispatcher.database.write
    try:
        return write(lambda c: placing.place_all(c, reserved, now))
    except NotEnoughCptError:
        return write(lambda c: placing.place_all(c, reserved, now, lock_ledger=True))


def _publish(dispatcher: Dispatcher, planner: Planner, aside: Aside, done: list[Placement]) -> None:
    """An agent reads its own queue; a node without one is called by a dispatcher."""
    pushed = {placement.node_id for placement in done if planner.fleet.is_pushed(placement.node_id)}

    def tell() -> None:
        dispatcher.publisher.execute_all(
            [
                (it.node_id, it.attempt_id, ids.shown_task(it.task_id))
                for it in done
                if it.node_id not in pushed
            ]
        )
        for it in done:
            if it.node_id in pushed:
                dispatcher.publisher.push(it.node_id, it.attempt_id)

    if done:
        aside.do(tell)


def _placement(planned: Planned) -> Placement:
    task = planned.task
    return Placement(
        task.task_id,
        task.attempt_number + 1,
        planned.node_id,
        task.requirements.claim,
        ids.attempt_id(secrets.token_hex(_TOKEN_BYTES)),
        owner_id=task.owner_id,
    )


def _give_back(dispatcher: Dispatcher, placement: Placement) -> None:
    """Somebody else moved the task; nobody else has an attempt of this id."""
    dispatcher.registry.release(placement.node_id, placement.attempt_id)
    dispatcher.registry.announce(placement.node_id)


def lose(dispatcher: Dispatcher, row: LiveAttempt, reason: Reason, *, blameless: bool = False) -> None:
    """The attempt is gone; its task goes elsewhere."""
    with suppress(StaleAttemptError):
        dispatcher.lifecycle.lose_attempt(row.id, row.node_id, row.owner_id, reason, blameless=blameless)
