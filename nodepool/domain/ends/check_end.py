"""A result that the pool checks: what follows when a run that checks it has ended. Pure.

Another run is added, or the check has an answer: then the block stands, or is recalled, and who is paid and
believed follows from it. The rules are in `domain/trust/audits.py`; docs/adr/0015-replicas-are-tasks.md says
where the product differs. Asked again, it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodepool.domain.ends.effects import EndDecision, FamilyEffects, ReplacedResult
from nodepool.domain.ends.replicated_end import live_attempts, more_runs, result_of
from nodepool.domain.ends.task_runs import NOT_NEEDED, VERDICTS, ParentTask, TaskFamily, TaskRun, as_replica
from nodepool.domain.money import ledger
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import Outcome, Verification
from nodepool.domain.trust import audits
from nodepool.domain.trust.audits import BlockEnd
from nodepool.domain.trust.credit_moves import NewChange, of_finding
from nodepool.domain.trust.provisional import LENIENT, ProvisionalResult
from nodepool.domain.trust.replication import Next, ReplicaRun, Step, next_step
from nodepool.domain.trust.voting import Count, Finding, Verdict, Vote

_RUNS_COMPARED = 2


def next_of(family: TaskFamily, result: ProvisionalResult, now: float) -> Next:
    """`result` is the one that is checked."""
    parent, runs = family.parent, family.runs
    # Its digest is made when there is another to compare it with.
    known = bool(parent.result_digest) or not any(run.result_digest for run in runs)
    vote = Vote(
        run_id=parent.id,
        owner_id=result.owner_id,
        digest=parent.result_digest,
        trusted=result.trusted,
    )
    own = ReplicaRun(state=parent.state, vote=vote if known else None, ended_at=result.finished_at)
    compared = [own, *(as_replica(run) for run in runs)]
    return next_step(compared, replicas=_RUNS_COMPARED, now=now, others=family.others, by_user=False)


def is_due(family: TaskFamily, now: float) -> bool:
    """Whether `follow_up` would change something."""
    result = family.checked
    return result is not None and next_of(family, result, now).step is not Step.WAIT


def ends(family: TaskFamily, now: float) -> bool:
    """Whether the check has an answer, so that more is to be known for what follows from it."""
    result = family.checked
    return result is not None and next_of(family, result, now).step is Step.END


def follow_up(family: TaskFamily, decision: EndDecision) -> None:
    decision.follow(family.parent.id)
    result = family.checked
    if result is None:
        return  # it was decided before
    step = next_of(family, result, decision.now)
    if step.step is Step.ADD:
        decision.follow(family.parent.id, added=more_runs(family, step.add))
    elif step.step is Step.END:
        count = step.count or Count(verdict=Verdict.UNDECIDED)
        _Check.of(family, result, count, decision).end(decision)


def possible_changes(family: TaskFamily, result: ProvisionalResult) -> list[NewChange]:
    """Every change of a credit score that the check's end may bring."""
    voters = [run for run in family.runs if run.result_digest]
    findings = (Finding.VERIFIED, Finding.DIFFERED)
    return [
        change
        for finding in findings
        for voter in _voters(voters, result)
        for change in _changes(voter, finding, family.parent)
    ]


@dataclass(frozen=True, slots=True)
class _Voter:
    attempt_id: str
    node_id: str
    provider_id: int


def _voters(runs: Sequence[TaskRun], result: ProvisionalResult) -> list[_Voter]:
    """Those whose credit the comparison may move. Of a recalled run nothing more: its owner has lost for
    the one that was found out."""
    found = [_Voter(run.attempt_id, run.node_id, run.provider) for run in runs]
    if not result.recalled:
        found.append(_Voter(result.attempt_id, result.node_id, result.owner_id))
    return found


def _changes(voter: _Voter, finding: Finding, task: ParentTask) -> list[NewChange]:
    return of_finding(
        finding,
        attempt_id=voter.attempt_id,
        task_id=task.id,
        node_id=voter.node_id,
        provider_id=voter.provider_id,
        task_owner_id=task.owner_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """A check with an answer. `own`: what the count says of the result; `told`: what it says for good."""

    family: TaskFamily
    result: ProvisionalResult
    count: Count
    own: Finding
    checkers: tuple[TaskRun, ...]
    told: Mapping[int, Finding]

    @classmethod
    def of(cls, family: TaskFamily, result: ProvisionalResult, count: Count, decision: EndDecision) -> _Check:
        own = count.findings.get(family.parent.id, Finding.UNDECIDED)
        checkers = tuple(run for run in family.runs if run.id in count.findings)
        findings = {run.provider: count.findings[run.id] for run in checkers} | {result.owner_id: own}
        facts, least = decision.book.facts, decision.rules.audits.least_owners
        told = audits.that_count(
            findings,
            facts.related,
            raises=facts.reach.raises(least),
            lowers=facts.reach.lowers(least),
        )
        return cls(family=family, result=result, count=count, own=own, checkers=checkers, told=told)

    def end(self, decision: EndDecision) -> None:
        task, book = self.family.parent, decision.book
        # Findings first: what a strike costs depends on the record before it.
        lenient = self._note(decision) if not self.result.recalled else False
        wrong = [run for run in self.checkers if self.count.findings[run.id] is Finding.DIFFERED]
        for run in wrong:
            # One that was right is no better for it: it may know that it checks.
            if self.told[run.provider] is Finding.DIFFERED:
                book.found_false(run.node_id, run.provider)
        self._pay([run for run in self.checkers if run not in wrong], decision)
        self._end_block(decision, lenient=lenient)
        decision.family = FamilyEffects(
            task_id=task.id,
            verdicts=tuple((run.id, VERDICTS[self.count.findings[run.id]]) for run in self.checkers),
            replaced=self._replacement(),
            dropped=NOT_NEEDED,
        )
        decision.follow(task.id, stopped=live_attempts(self.family.runs), ended=True)
        decision.credit(self._credit(decision))

    def _note(self, decision: EndDecision) -> bool:
        """Count the finding for the run that was checked; whether its owner is forgiven."""
        finding = self.told[self.result.owner_id]
        change = decision.book.note(self.result.node_id, self.result.owner_id, finding)
        if change.struck:
            decision.book.paused.add(self.result.node_id)
        return change.lenient

    def _pay(self, checkers: Sequence[TaskRun], decision: EndDecision) -> None:
        """The checkers who did not differ, and a recalled run that may keep its pay.

        Of a result that was false, or is not paid although it was right, the user's payment pays the
        checkers.
        """
        task, result, false = self.family.parent, self.result, self.own is Finding.DIFFERED
        paid_after_all = audits.pays_recalled(
            lenient=result.recalled == LENIENT, confirmed=self.own is Finding.VERIFIED
        )
        if result.recalled and paid_after_all and not false:
            decision.book.award(result)
        runs = []
        for run in checkers:
            ended = run.attempt_finished_at or decision.now
            minutes = _minutes(run.attempt_started_at, ended, task, run.attempt_run_seconds)
            if amount := minutes * task.price_per_minute:
                runs.append((run.attempt_id, run.provider, amount))
        decision.book.pay_runs(result, runs, forfeit=false or bool(result.recalled and not paid_after_all))

    def _end_block(self, decision: EndDecision, *, lenient: bool) -> None:
        book, task_id, result = decision.book, self.result.task_id, self.result
        told = self.told[result.owner_id]
        disputed = Verification.DISPUTED if self.checkers else ""
        word = Verification.AUDITED if self.own is Finding.VERIFIED else disputed
        if self.own is Finding.DIFFERED:
            book.forget(task_id, Verification.DISPUTED)
            if not result.recalled and told is Finding.DIFFERED:
                book.recall(result.node_id, lenient=lenient)
            elif not result.recalled:
                # One that said nothing of its node leaves the rest of its block to another check.
                book.draw_again(task_id)
        elif result.recalled:
            book.forget(task_id, word)
        elif audits.block_end(told) is BlockEnd.DRAW_AGAIN and book.draw_again(task_id):
            book.award(result)
            book.forget(task_id, word)
        else:
            rest = Verification.AUDITED if told is Finding.VERIFIED else ""
            book.release_block(task_id, word=word, rest=rest, pay=self._fair_share())

    def _fair_share(self) -> tuple[int, int]:
        """What part of its pay the node gets: (minutes that are fair, minutes that it took).

        Beside checks that took far less time, it dawdled, in this run as in the others of its block.
        """
        task, result = self.family.parent, self.result
        if self.told[result.owner_id] is not Finding.VERIFIED:
            return (1, 1)
        own = _minutes(result.started_at, result.ended_at, task, result.run_seconds)
        agreed = [run for run in self.checkers if self.told[run.provider] is Finding.VERIFIED]
        others = [
            _minutes(run.attempt_started_at, run.attempt_finished_at, task, run.attempt_run_seconds)
            for run in agreed
        ]
        return (audits.fair_minutes(own, others), own) if own and all(others) else (1, 1)

    def _replacement(self) -> ReplacedResult | None:
        """The result that most agree on takes the place of a false one. How the task ended stays, where its
        owner has seen it."""
        if self.own is not Finding.DIFFERED:
            return None
        best = next(run for run in self.checkers if run.result_digest == self.count.digest)
        reason = because(ReasonCode.REPLACED)
        unseen = self.family.parent.is_held_back
        if best.state != self.family.parent.state and not unseen:
            reason = because(ReasonCode.REPLACED_STATE, state=best.state.lower())
        result = result_of(best)
        if result is None:
            return None
        return ReplacedResult(result=result, reason=reason, state=best.state if unseen else None)

    def _credit(self, decision: EndDecision) -> list[NewChange]:
        raised = decision.book.facts.raised
        return [
            change
            for voter in _voters(self.checkers, self.result)
            if (finding := self.told[voter.provider_id]) is not Finding.VERIFIED
            or voter.provider_id not in raised
            for change in _changes(voter, finding, self.family.parent)
        ]


def _minutes(started_at: float | None, finished_at: float | None, task: ParentTask, ran: float | None) -> int:
    ended = finished_at or started_at or 0.0
    return ledger.minutes_to_pay(Outcome.SUCCEEDED, started_at, ended, task.max_minutes, ran=ran)
