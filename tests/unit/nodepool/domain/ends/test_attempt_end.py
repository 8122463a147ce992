"""What the end of an attempt does, without a database: every outcome of every kind of run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import pytest

from nodepool.domain.ends.attempt_end import (
    AttemptEndSnapshot,
    End,
    EndingAttempt,
    EndingNode,
    EndingTask,
    EndRules,
    Tickets,
    decide,
    to_be_known,
)
from nodepool.domain.ends.effects import Effects
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily, TaskRun
from nodepool.domain.errors import StaleAttemptError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, HoldState
from nodepool.domain.money.settlement import Hold
from nodepool.domain.tasks.reasons import ReasonCode, told
from nodepool.domain.tasks.retries import RetryRules
from nodepool.domain.tasks.states import AttemptState, Outcome, TaskKind, TaskState
from nodepool.domain.trust.audits import Reach
from nodepool.domain.trust.credit import Cause
from nodepool.domain.trust.credit_moves import Score
from nodepool.domain.trust.provisional import ProvisionalResult, TrustFacts

NOW, MAX_ATTEMPTS, PRICE, MINUTES = 1000.0, 3, 3, 2
USER, OWNER = 1, 2
RULES = EndRules(max_attempts=MAX_ATTEMPTS)
TICKETS = Tickets(draw=0.0, spot=1.0)
HOLD = Hold(task_id="t", account_id=ledger.user_account(USER), amount=60 * PRICE, price_per_minute=PRICE)
SCORES = {OWNER: Score(user_id=OWNER, score=100)}
MANY = TrustFacts(reach=Reach(9, 9))
S, F, X, L, R = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.STOPPED, Outcome.LOST, Outcome.REFUSED
_BAD = (L, R)

Facts: TypeAlias = dict[str, bool]
# (outcome, stop asked, last allowed attempt) -> what becomes of its task.
STATES = {
    **dict.fromkeys(product([S], [False, True], [False, True]), TaskState.SUCCEEDED),
    **dict.fromkeys(product([F], [False, True], [False, True]), TaskState.FAILED),
    **dict.fromkeys(product([X], [False, True], [False, True]), TaskState.STOPPED),
    **dict.fromkeys(product(_BAD, [True], [False, True]), TaskState.STOPPED),
    **dict.fromkeys(product(_BAD, [False], [False]), TaskState.QUEUED),
    **dict.fromkeys(product(_BAD, [False], [True]), TaskState.FAILED),
}


@dataclass(frozen=True)
class Kind:
    """Whose run it was, and for what."""

    kind: TaskKind = TaskKind.USER
    owner: int = OWNER  # of the node
    is_low: bool = False
    pinned: str = ""
    replicas: int = 0  # of the task that it is a run of; 0: it is none


KINDS = {
    "on a trusted node": Kind(),
    "on their own node": Kind(owner=USER),
    "on a node of low trust": Kind(is_low=True),
    "one of several runs": Kind(kind=TaskKind.REPLICA, replicas=3),
    "a check": Kind(kind=TaskKind.AUDIT, replicas=1),
    "a probe": Kind(kind=TaskKind.PROBE, pinned="n", is_low=True),
}
# Who says that it ended: its agent; the pool, which calls nodes without one and ends what is late.
TOLD: dict[str, Facts] = {
    "by its agent": {},
    "by the pool, late": {"late": True},
    "by the pool, idle": {"late": True, "idle": True},
    "by the pool, never called": {"blameless": True},
}
ENDS = list(product(Outcome, [False, True], [False, True]))
every_kind = pytest.mark.parametrize(("kind", "told"), list(product(KINDS, TOLD)))


def attempt(kind: Kind, *, stop: bool = False, last: bool = False) -> EndingAttempt:
    return EndingAttempt(
        id="a",
        task=EndingTask(
            id="t~1" if kind.replicas else "t",
            owner_id=USER,
            kind=kind.kind,
            stop_requested=stop,
            attempts_ended=MAX_ATTEMPTS - 1 if last else 0,
            pinned_node=kind.pinned,
            tier="high",
            region="any",
        ),
        node=EndingNode(id="n", owner_id=kind.owner, cpu_cores=4, cpu_score=4000, is_low=kind.is_low),
        started_at=NOW - 61,
    )


def family(kind: Kind) -> TaskFamily | None:
    if not kind.replicas:
        return None
    runs = [
        TaskRun(
            id=f"t~{number}",
            state=TaskState.RUNNING,
            node_id="n" if number == 1 else f"n{number}",
            attempt_id="a" if number == 1 else f"a{number}",
            attempt_state=AttemptState.RUNNING,
            attempt_started_at=NOW - 61,
            provider_id=kind.owner if number == 1 else 10 + number,
            trusted=True,
        )
        for number in range(1, kind.replicas + 1)
    ]
    parent = ParentTask(
        id="t",
        owner_id=USER,
        state=TaskState.RUNNING if kind.replicas > 1 else TaskState.SUCCEEDED,
        replicas=kind.replicas,
        price_per_minute=PRICE,
    )
    result = ProvisionalResult(
        task_id="t", attempt_id="t:1", node_id="lier", owner_id=9, finished_at=NOW - 100, drawn=True,
        block="t", waiting_pay=PRICE, payer=HOLD.account_id, runs=1,
    )  # fmt: skip
    several = kind.replicas > 1
    return TaskFamily(
        parent=parent,
        runs=tuple(runs),
        others=True,
        hold=HOLD if several else None,
        checked=None if several else result,
    )


def ended(outcome: Outcome, **facts: object) -> End:
    values = {
        "exit_code": 0,
        "reason": told("so it was"),
        "has_result": True,
        "result_bytes": 5,
        "output_bytes": 9,
    }
    return End(outcome=outcome, **{**values, **facts})  # type: ignore[arg-type]


def end(kind: Kind, told: End, *, stop: bool = False, last: bool = False) -> Effects:
    """With as much known as such an end asks for."""
    about = attempt(kind, stop=stop, last=last)
    want = to_be_known(about, told, RULES, NOW, TICKETS, is_run=bool(kind.replicas))
    snapshot = AttemptEndSnapshot(
        attempt=about,
        hold=HOLD if want.hold else None,
        others=want.others,
        family=family(kind) if want.family else None,
        trust=MANY if want.others or want.found_false or kind.replicas else None,
        scores=SCORES if want.change is not None else {},
    )
    return decide(snapshot, told, RULES, NOW, TICKETS)


@every_kind
def test_the_state_of_attempt_and_task(kind: str, told: str) -> None:
    for outcome, stop, last in ENDS:
        _the_state_of_attempt_and_task(KINDS[kind], TOLD[told], outcome, stop=stop, last=last)


def _the_state_of_attempt_and_task(
    case: Kind, facts: Facts, outcome: Outcome, *, stop: bool, last: bool
) -> None:
    effects = end(case, ended(outcome, **facts), stop=stop, last=last)
    assert effects.closed is not None
    assert effects.moved is not None
    counts = outcome is L and "blameless" not in facts
    before = MAX_ATTEMPTS - 1 if last else 0
    # What the pool ended for its own reasons uses up none of the attempts.
    assert effects.moved.attempts_ended == before + counts
    assert effects.moved.state is STATES[outcome, stop, last and counts]
    assert (effects.closed.before, effects.closed.idle) == (AttemptState.RUNNING, "idle" in facts)
    is_final = effects.moved.state is not TaskState.QUEUED
    assert effects.moved.result_attempt == ("a" if is_final else "")
    given_up = effects.moved.state is TaskState.FAILED and outcome is L
    assert (effects.moved.reason.code is ReasonCode.GIVEN_UP) == given_up


@every_kind
def test_what_the_task_holds(kind: str, told: str) -> None:
    """It ends with a task without other runs, once; paid is work, and nobody's when it may be false."""
    for outcome, stop, last in ENDS:
        _what_the_task_holds(KINDS[kind], TOLD[told], outcome, stop=stop, last=last)


def _what_the_task_holds(case: Kind, facts: Facts, outcome: Outcome, *, stop: bool, last: bool) -> None:
    effects = end(case, ended(outcome, **facts), stop=stop, last=last)
    assert effects.moved is not None
    if case.replicas or effects.moved.state is TaskState.QUEUED:
        assert effects.settlement is None
        return
    assert effects.settlement is not None
    paid = outcome in (S, F, X) and "idle" not in facts
    assert effects.settlement.state is (HoldState.POSTED if paid else HoldState.VOIDED)
    payments = [entry for entry in effects.settlement.entries if entry.kind is EntryKind.PAYMENT]
    doubtful = outcome is F and "late" in facts
    waits = outcome in (S, F) and case.kind is TaskKind.USER and case.owner != USER
    account = ledger.PENDING if waits and (case.is_low or doubtful) else ledger.user_account(case.owner)
    assert [(it.amount, it.credit) for it in payments] == ([(MINUTES * PRICE, account)] if paid else [])
    assert sum(entry.amount for entry in effects.settlement.entries) == HOLD.amount
    # Such a result is checked, and at once: the node is a newcomer.
    kept = paid and account == ledger.PENDING
    assert (effects.trust.kept is not None) == kept
    assert [run.task_id for run in effects.added] == (["t~1"] if kept else [])


@every_kind
def test_what_it_says_of_the_nodes_owner(kind: str, told: str) -> None:
    for outcome, stop, last in ENDS:
        _what_it_says_of_the_nodes_owner(KINDS[kind], TOLD[told], outcome, stop=stop, last=last)


def _what_it_says_of_the_nodes_owner(
    case: Kind, facts: Facts, outcome: Outcome, *, stop: bool, last: bool
) -> None:
    effects = end(case, ended(outcome, **facts), stop=stop, last=last)
    strangers = case.owner != USER and case.kind is not TaskKind.PROBE and "blameless" not in facts
    causes: list[Cause] = []
    if strangers and "idle" in facts:
        causes = [Cause.IDLE]
    elif strangers and "late" in facts:
        causes = [Cause.LATE]
    elif strangers and outcome is L and not stop and not last:
        causes = [Cause.LOST]
    assert [row.change.cause for move in effects.scores for row in move.rows] == causes
    # Who takes runs and does nothing is struck as for a false result.
    idle = strangers and "idle" in facts
    strikes = [record.strikes for record in effects.trust.owners.values()]
    assert strikes == ([1] if idle else [])
    assert effects.follow_up is None or ("n" in effects.follow_up.paused) == idle


@every_kind
def test_what_it_says_of_the_node(kind: str, told: str) -> None:
    for outcome, stop, last in ENDS:
        _what_it_says_of_the_node(KINDS[kind], TOLD[told], outcome, stop=stop, last=last)


def _what_it_says_of_the_node(case: Kind, facts: Facts, outcome: Outcome, *, stop: bool, last: bool) -> None:
    effects = end(case, ended(outcome, **facts), stop=stop, last=last)
    if outcome is X or case.pinned or "blameless" in facts:
        assert effects.history is None
        return
    assert effects.history is not None
    bad = effects.history.history.bad
    assert effects.history.history.good == (outcome in (S, F))
    assert bad == (0 if outcome in (S, F) else pytest.approx(1 / MAX_ATTEMPTS if last else 1))


@pytest.mark.parametrize("outcome", Outcome)
def test_a_run_of_several_lets_its_task_wait_for_the_others(outcome: Outcome) -> None:
    effects = end(KINDS["one of several runs"], ended(outcome, digest="d"))
    assert effects.follow_up is not None
    assert effects.follow_up.task_id == "t"
    # One that says nothing is replaced.
    assert [run.task_id for run in effects.added] == (["t~4"] if outcome is X else [])
    assert (effects.family, effects.follow_up.ended) == (None, False)


@pytest.mark.parametrize("state", [AttemptState.FINISHED, AttemptState.LOST, AttemptState.STOPPED])
@pytest.mark.parametrize("outcome", Outcome)
def test_an_attempt_ends_once(state: AttemptState, outcome: Outcome) -> None:
    about = attempt(Kind())
    task_state = {"finished": "SUCCEEDED", "lost": "QUEUED", "stopped": "STOPPED"}[state]
    over = replace(about, state=state, task=replace(about.task, state=TaskState(task_state)))
    same = {(AttemptState.FINISHED, S), (AttemptState.STOPPED, X)}
    if (state, outcome) in same:
        effects = decide(AttemptEndSnapshot(attempt=over), ended(outcome), RULES, NOW, TICKETS)
        assert effects == Effects(now=NOW, told_before=True)
        return
    with pytest.raises(StaleAttemptError):
        decide(AttemptEndSnapshot(attempt=over), ended(outcome), RULES, NOW, TICKETS)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_attempt_that_is_not_the_current_one_is_stale(outcome: Outcome) -> None:
    about = attempt(Kind())
    later = replace(about, task=replace(about.task, attempt_number=2))
    with pytest.raises(StaleAttemptError):
        decide(AttemptEndSnapshot(attempt=later), ended(outcome), RULES, NOW, TICKETS)


@pytest.mark.parametrize("outcome", [S, F])
def test_what_was_never_claimed_cannot_have_run(outcome: Outcome) -> None:
    about = attempt(Kind())
    waits = replace(about, state=AttemptState.ASSIGNED, task=replace(about.task, state=TaskState.PLACED))
    with pytest.raises(StateConflictError):
        decide(AttemptEndSnapshot(attempt=waits), ended(outcome), RULES, NOW, TICKETS)


def test_a_task_that_cannot_be_given_its_secrets_has_failed_and_nobody_is_paid_or_blamed() -> None:
    effects = end(KINDS["on a node of low trust"], ended(F, blameless=True, idle=True, has_result=False))
    assert effects.moved is not None
    assert effects.moved.state is TaskState.FAILED
    assert effects.settlement is not None
    assert effects.settlement.state is HoldState.VOIDED
    assert (effects.history, effects.scores, effects.trust.owners) == (None, (), {})
    # Its owner wants its program's failures tried again, and this is none.
    about = attempt(KINDS["on a trusted node"])
    again = replace(about, task=replace(about.task, retry=RetryRules(retries=3)))
    for how, state in (
        (ended(F, exit_code=None, blameless=True, idle=True), "FAILED"),
        (ended(F), "QUEUED"),
    ):
        effects = decide(AttemptEndSnapshot(attempt=again, hold=HOLD), how, RULES, NOW, TICKETS)
        assert effects.moved is not None
        assert effects.moved.state == state


def test_what_was_given_secrets_is_sent_to_no_second_node() -> None:
    about = attempt(KINDS["on a node of low trust"])
    told = ended(S)
    assert to_be_known(about, told, RULES, NOW, TICKETS, is_run=False).others
    secret = replace(about, task=replace(about.task, has_secrets=True))
    assert not to_be_known(secret, told, RULES, NOW, TICKETS, is_run=False).others
    effects = decide(AttemptEndSnapshot(attempt=secret, hold=HOLD), told, RULES, NOW, TICKETS)
    assert effects.settlement is not None
    payments = [entry for entry in effects.settlement.entries if entry.kind is EntryKind.PAYMENT]
    assert [entry.credit for entry in payments] == [ledger.user_account(OWNER)]
    assert effects.trust.kept is None


def test_what_a_node_says_of_its_use_is_kept_within_what_can_be() -> None:
    effects = end(Kind(), ended(S, cpu_seconds=1e9, peak_memory_bytes=1 << 60))
    assert effects.closed is not None
    assert effects.closed.cpu_seconds == 61 * 4
    assert effects.closed.peak_memory_bytes == 0
