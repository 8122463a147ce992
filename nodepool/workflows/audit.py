"""Audits: when a low-trust node's result is checked, and what follows when the check has an answer.

Functions of a connection, for the transaction that ends a run, and the sweep. Asked again, they change
nothing. The rules are in domain/trust/audits.py; docs/adr/0015-replicas-are-tasks.md says where we differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select, update

from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import FINAL_TASK_STATES, Outcome, TaskKind, TaskState, Verification
from nodepool.domain.trust import audits as verification
from nodepool.domain.trust.audits import BlockEnd
from nodepool.domain.trust.replication import Next, ReplicaRun, Step, next_step
from nodepool.domain.trust.voting import Count, Finding, Verdict, Vote
from nodepool.stores.sql import (
    credit as credit_store,
    provisional_results,
    replicas,
    verification_records,
)
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.tasks import End, Ended
from nodepool.workflows import audit_counts, replica_vote
from nodepool.workflows.replica_vote import VERDICTS, Deciding, FollowUp, Waiting

_RUNS_COMPARED, _SECONDS_PER_MINUTE = 2, 60
# What starting a program takes is more.
_LITTLE_CPU_SECONDS = 1.0
_STRICT, _LENIENT = "strict", "lenient"
_COMPARED = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})


@dataclass(slots=True)
class _Follows:
    """What is told outside SQL, as it gathers."""

    added: list[Waiting] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)


# -- a result comes in --------------------------------------------------------------------------------
def is_provisional(
    connection: Connection, ended: Ended, end: End, provider_id: int, deciding: Deciding
) -> bool:
    """Whether the result of this end is paid only when it stands.

    Not where nobody else could check it, nor that of a node of the task's own owner: anybody could order
    his own good name.
    """
    row = ended.task
    if (
        end.outcome not in _COMPARED
        or end.idle
        or row.kind != TaskKind.USER
        or row.pinned_node
        or provider_id == row.owner_id
        or deciding.rules.audit_share <= 0
        or len(row.id) > replicas.MAX_PARENT_ID
    ):
        return False
    looked_at = (
        verification_records.is_low(connection, ended.node_id)
        or deciding.spot_ticket < deciding.rules.spot_share
        or _is_doubtful(end, row, deciding.now)
        or verification_records.is_watched(connection, ended.node_id)
    )
    return looked_at and replicas.somebody_else(
        connection, {provider_id, row.owner_id}, allow_pushed=deciding.allow_pushed
    )


def _is_doubtful(end: End, row: Row[Any], now: float) -> bool:
    """A run that took all the time that it might and shows little for it, or that the pool had to end."""
    at_bound = now - (row.attempt_started_at or now) >= row.max_minutes * _SECONDS_PER_MINUTE
    nothing = end.output_bytes == 0 and end.cpu_seconds < _LITTLE_CPU_SECONDS
    return end.outcome is Outcome.FAILED and (end.late or (at_bound and nothing))


def keep(connection: Connection, ended: Ended, end: End, provider_id: int, deciding: Deciding) -> FollowUp:
    """The result of this end is provisional; a block that it fills is audited.

    One of a trusted node, one that is looked at for a reason of its own, and one that too few could check to
    say something of others, is checked by itself.
    """
    ledger_store.lock(connection)
    task, node_id = ended.task, ended.node_id
    provisional_results.keep(
        connection,
        task_id=task.id,
        attempt_id=task.attempt_id,
        node_id=node_id,
        owner_id=provider_id,
        now=deciding.now,
    )
    alone = (
        not verification_records.is_low(connection, node_id)
        or verification_records.is_watched(connection, node_id)
        or _is_doubtful(end, task, deciding.now)
        or not audit_counts.reach(connection, task, provider_id, deciding).raises(deciding.rules.least_owners)
    )
    follows = _Follows()
    if alone:
        verification_records.one_less_to_watch(connection, node_id)
        _check(connection, task.id, [task.id], deciding.now, follows)
    else:
        _close_block(connection, node_id, deciding, follows)
    return FollowUp(task, added=tuple(follows.added))


def found_idle(
    connection: Connection, ended: Ended, provider_id: int, follow: FollowUp | None, deciding: Deciding
) -> FollowUp:
    """The node took a run and did nothing: as if its result had been false."""
    added = found_false(connection, ended.node_id, provider_id, deciding)
    follow = follow or FollowUp(ended.task)
    return replace(follow, added=follow.added + added, paused=follow.paused | {ended.node_id})


def close_block(connection: Connection, node_id: str, deciding: Deciding) -> tuple[Waiting, ...]:
    """The sweep asks too: a block closes with time."""
    ledger_store.lock(connection)
    follows = _Follows()
    _close_block(connection, node_id, deciding, follows)
    return tuple(follows.added)


def _close_block(connection: Connection, node_id: str, deciding: Deciding, follows: _Follows) -> None:
    results = provisional_results.open_of(connection, node_id)
    if not results:
        return
    node = verification_records.of_node(connection, node_id)
    owner = verification_records.of_owner(connection, results[0].owner_id)
    size = verification.block_size(node, owner, deciding.rules)
    if verification.is_full(size, len(results), results[0].finished_at, deciding.now):
        names = [result.task_id for result in results]
        _check(connection, verification.draw(names, deciding.ticket), names, deciding.now, follows)


def _check(
    connection: Connection, task_id: str, block_of: Sequence[str], now: float, follows: _Follows,
    recalled: str = "",
) -> None:  # fmt: skip
    task = provisional_results.put_under_check(connection, task_id, block_of, now, recalled=recalled)
    newest = replicas.runs_of(connection, task_id)[-1]
    follows.added.append(Waiting(newest.id, task.tier, task.region))


# -- a check ends -------------------------------------------------------------------------------------
def is_due(connection: Connection, task_id: str, deciding: Deciding) -> bool:
    """Whether follow_up would change something. Locks nothing."""
    result = provisional_results.find(connection, task_id)
    if result is None or not result.drawn:
        return False
    task = connection.execute(select(tasks).where(tasks.c.id == task_id)).one()
    return _next(connection, task, result, deciding)[0].step is not Step.WAIT


def follow_up(connection: Connection, task: Row[Any], deciding: Deciding) -> FollowUp:
    """A run that checks this task ended. `task` is locked (see replicas.lock)."""
    ledger_store.lock(connection)
    result = provisional_results.find(connection, task.id)
    if result is None or not result.drawn:
        return FollowUp(task)  # it was decided before
    step, runs = _next(connection, task, result, deciding)
    if step.step is Step.ADD:
        return FollowUp(task, added=replica_vote.add(connection, task, step.add, runs, deciding.now))
    if step.step is Step.END:
        return _decide(connection, task, result, runs, step, deciding)
    return FollowUp(task)


def _next(
    connection: Connection, task: Row[Any], result: Row[Any], deciding: Deciding
) -> tuple[Next, Sequence[Row[Any]]]:
    runs = replicas.runs_of(connection, task.id)
    owners = {task.owner_id, result.owner_id, *(run.provider_id for run in runs if run.provider_id)}
    others = replicas.somebody_else(connection, owners, allow_pushed=deciding.allow_pushed)
    # Its digest is made when there is another to compare it with.
    known = bool(task.result_digest) or not any(run.result_digest for run in runs)
    vote = _own_vote(connection, task, result) if known else None
    own = ReplicaRun(state=TaskState(task.state), vote=vote, ended_at=result.finished_at)
    compared = [own, *(replica_vote.run_of(run) for run in runs)]
    step = next_step(compared, replicas=_RUNS_COMPARED, now=deciding.now, others=others, asked=False)
    return step, runs


def _own_vote(connection: Connection, task: Row[Any], result: Row[Any]) -> Vote:
    """Of the run that is checked."""
    record = verification_records.of_node(connection, result.node_id)
    trusted = verification.is_trusted(record, verification_records.of_owner(connection, result.owner_id))
    return Vote(run_id=task.id, owner_id=result.owner_id, digest=task.result_digest, trusted=trusted)


def _decide(
    connection: Connection,
    task: Row[Any],
    result: Row[Any],
    runs: Sequence[Row[Any]],
    step: Next,
    deciding: Deciding,
) -> FollowUp:
    now, follows = deciding.now, _Follows()
    count = step.count or Count(verdict=Verdict.UNDECIDED)
    own = count.findings.get(task.id, Finding.UNDECIDED)
    checkers = [run for run in runs if run.id in count.findings]
    for run in checkers:
        verdict = VERDICTS[count.findings[run.id]]
        connection.execute(update(tasks).where(tasks.c.id == run.id).values(verification=verdict))
    told = audit_counts.that_count(connection, task, result, own, checkers, count, deciding)
    # Findings first: what a strike costs depends on the record before it.
    lenient = _note(connection, result, told, deciding, follows) if not result.recalled else False
    wrong = [run for run in checkers if count.findings[run.id] is Finding.DIFFERED]
    for run in wrong:
        if told[run.provider_id] is Finding.DIFFERED:
            _note_checker(connection, run, deciding, follows)
    _pay(connection, task, result, own, [run for run in checkers if run not in wrong], now)
    disputed = Verification.DISPUTED if len(checkers) > 0 else ""
    word = Verification.AUDITED if own is Finding.VERIFIED else disputed
    if own is Finding.DIFFERED:
        best = next(run for run in checkers if run.result_digest == count.digest)
        _replace(connection, task, best, now)
        provisional_results.forget(connection, task.id, Verification.DISPUTED)
        if not result.recalled and told[result.owner_id] is Finding.DIFFERED:
            _recall(connection, result, lenient=lenient, now=now, follows=follows)
        elif not result.recalled:
            _draw_again(connection, task.id, deciding, follows)
    elif result.recalled:
        provisional_results.forget(connection, task.id, word)
    else:
        pay = audit_counts.fair_share(connection, task, result, told, checkers)
        _end_block(connection, task.id, told[result.owner_id], word, deciding, follows, pay)
    stopped = replicas.drop_open(connection, task.id, replica_vote.NOT_NEEDED, now)
    changes = _credit(connection, task, result, told, checkers, now)
    moved = credit_store.move(connection, changes, start=deciding.start_score, now=now)
    return FollowUp(
        task,
        added=tuple(follows.added),
        stopped=tuple((run.node_id, run.attempt_id) for run in stopped),
        ended=True,
        tiers_changed=moved,
        paused=frozenset(follows.paused),
    )


def _draw_again(connection: Connection, task_id: str, deciding: Deciding, follows: _Follows) -> None:
    """One that said nothing of its node leaves the rest of its block to another check."""
    left = [
        result.task_id for result in provisional_results.of_block(connection, task_id) if not result.drawn
    ]
    if left:
        _check(connection, verification.draw(left, deciding.ticket), left, deciding.now, follows)


def _note(
    connection: Connection,
    result: Row[Any],
    told: Mapping[int, Finding],
    deciding: Deciding,
    follows: _Follows,
) -> bool:
    """Count the finding for the run that was checked; whether its owner is forgiven."""
    finding = told[result.owner_id]
    change = verification_records.note(connection, result.node_id, result.owner_id, finding, deciding.now)
    if change.struck:
        follows.paused.add(result.node_id)
    return change.lenient


def _note_checker(connection: Connection, run: Row[Any], deciding: Deciding, follows: _Follows) -> None:
    """A checker that was wrong. One that was right is no better for it: it may know that it checks."""
    change = verification_records.note(
        connection, run.node_id, run.provider_id, Finding.DIFFERED, deciding.now
    )
    follows.paused.add(run.node_id)
    for result in provisional_results.of_node(connection, run.node_id)[:1]:
        _recall(connection, result, lenient=change.lenient, now=deciding.now, follows=follows)


def found_false(
    connection: Connection, node_id: str, owner_id: int, deciding: Deciding
) -> tuple[Waiting, ...]:
    """The node gave a wrong answer where the pool knows the right one; the runs that wait because of it."""
    ledger_store.lock(connection)
    change = verification_records.note(connection, node_id, owner_id, Finding.DIFFERED, deciding.now)
    follows = _Follows()
    for result in provisional_results.of_node(connection, node_id)[:1]:
        _recall(connection, result, lenient=change.lenient, now=deciding.now, follows=follows)
    return tuple(follows.added)


def _recall(connection: Connection, of: Row[Any], *, lenient: bool, now: float, follows: _Follows) -> None:
    """All that the node of this result has not been paid yet is run again, each result by itself."""
    for result in provisional_results.of_node(connection, of.node_id):
        if result.drawn:
            continue  # it is being checked: the check decides
        recalled = _LENIENT if lenient else _STRICT
        _check(connection, result.task_id, [result.task_id], now, follows, recalled)


def _end_block(
    connection: Connection,
    task_id: str,
    own: Finding,
    word: str,
    deciding: Deciding,
    follows: _Follows,
    pay: tuple[int, int],
) -> None:
    """`own` as it counts; `word` for the task that was checked."""
    results = provisional_results.of_block(connection, task_id)
    left = [result.task_id for result in results if not result.drawn]
    if verification.block_end(own) is BlockEnd.DRAW_AGAIN and left:
        provisional_results.award(
            connection, next(it for it in results if it.task_id == task_id), deciding.now
        )
        provisional_results.forget(connection, task_id, word)
        _check(connection, verification.draw(left, deciding.ticket), left, deciding.now, follows)
        return
    rest = Verification.AUDITED if own is Finding.VERIFIED else ""
    for result in results:
        provisional_results.award(connection, result, deciding.now, pay=pay)
        provisional_results.forget(connection, result.task_id, word if result.task_id == task_id else rest)


def _pay(
    connection: Connection,
    task: Row[Any],
    result: Row[Any],
    own: Finding,
    checkers: Sequence[Row[Any]],
    now: float,
) -> None:
    """The checkers who did not differ, and a recalled run that may keep its pay.

    Of a result that was false, or is not paid although it was right, the user's payment pays the checkers.
    """
    paid_after_all = result.recalled == _LENIENT or own is Finding.UNDECIDED
    if result.recalled and paid_after_all and own is not Finding.DIFFERED:
        provisional_results.award(connection, result, now)
    forfeit = own is Finding.DIFFERED or bool(result.recalled and not paid_after_all)
    funds = provisional_results.pending(connection, result.attempt_id) if forfeit else 0
    runs = []
    for run in checkers:
        minutes = ledger.minutes_to_pay(
            Outcome.SUCCEEDED, run.attempt_started_at, run.attempt_finished_at or now, task.max_minutes
        )
        if amount := minutes * task.price_per_minute:
            runs.append((run.attempt_id, run.provider_id, amount))
    provisional_results.pay_runs(connection, task.id, runs, funds, now)


def _replace(connection: Connection, task: Row[Any], best: Row[Any], now: float) -> None:
    """The result that most agree on takes the place of the false one. How the task ended stays."""
    reason = "its first result was false, as other nodes found; this is the one that they agree on"
    if best.state != task.state:
        reason = f"its first result was false: other nodes agree that it {best.state.lower()}"
    connection.execute(
        update(tasks)
        .where(tasks.c.id == task.id, tasks.c.state.in_([state.value for state in FINAL_TASK_STATES]))
        .values(
            result_attempt=best.result_attempt,
            result_bytes=best.result_bytes,
            result_digest=best.result_digest,
            exit_code=best.exit_code,
            node_id=best.node_id,
            storage_due=True,
            reason=reason,
            updated_at=now,
        )
    )


def _credit(
    connection: Connection,
    task: Row[Any],
    result: Row[Any],
    told: Mapping[int, Finding],
    checkers: Iterable[Row[Any]],
    now: float,
) -> list[credit_store.NewChange]:
    """Of a recalled run nothing more: its owner has lost for the one that was found out."""
    found = [(run, run.attempt_id, run.provider_id) for run in checkers]
    if not result.recalled:
        found.append((result, result.attempt_id, result.owner_id))
    return [
        change
        for row, attempt_id, provider_id in found
        if (finding := told[provider_id]) is not Finding.VERIFIED
        or not credit_store.moved_by(connection, provider_id, task.owner_id, now)
        for change in credit_store.of_finding(
            finding,
            attempt_id=attempt_id,
            task_id=task.id,
            node_id=row.node_id,
            provider_id=provider_id,
            task_owner_id=task.owner_id,
        )
    ]
