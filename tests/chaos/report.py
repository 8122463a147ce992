"""What a run, or several, found: for each kind of fault how often, how bad, and what was violated. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tests.chaos.history import Fault, History, window_end
from tests.chaos.invariants import RULES, drain_ratio, longest_wait, pace, violations

# Of one rule in one run; --json has all.
_MOST_WORDS = 5


@dataclass(slots=True)
class Row:
    """One kind of fault. `drain`: the lowest ratio; None where no window was long enough."""

    name: str
    times: int = 0
    longest_stall: float = 0.0
    drain: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of the program."""

    what: str
    seed: int
    database: str
    tasks: int
    attempts: int
    seconds: float
    reference_pace: float
    reference_wait: float
    rows: tuple[Row, ...]
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


def outcome_of(history: History, *, what: str, seed: int, database: str) -> Outcome:
    rows: dict[str, Row] = {}
    for number, fault in enumerate(history.faults):
        row = rows.setdefault(fault.name, Row(fault.name))
        row.times += 1
        row.longest_stall = max(
            row.longest_stall, longest_wait(history, fault.ended, window_end(history, number))
        )
        row.errors += _errors(history, fault)
        row.drain = _lower(row.drain, drain_ratio(history, number))
    return Outcome(
        what=what,
        seed=seed,
        database=database,
        tasks=len(history.tasks),
        attempts=len(history.attempts),
        seconds=history.calm_until - history.began,
        reference_pace=pace(history, history.began, history.reference_until),
        reference_wait=longest_wait(history, history.began, history.reference_until),
        rows=tuple(sorted(rows.values(), key=lambda row: row.name)),
        violations=violations(history),
    )


def worst_of(outcomes: Iterable[Outcome]) -> tuple[Row, ...]:
    """Of each kind of fault the worst that was seen in any run."""
    rows: dict[str, Row] = defaultdict(lambda: Row(""))
    for outcome in outcomes:
        for row in outcome.rows:
            worst = rows[row.name]
            worst.name = row.name
            worst.times += row.times
            worst.longest_stall = max(worst.longest_stall, row.longest_stall)
            worst.errors += row.errors
            worst.drain = _lower(worst.drain, row.drain)
    return tuple(rows[name] for name in sorted(rows))


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """A table of faults, a table of invariants, and the words of what was violated."""
    first = outcomes[0]
    rows = worst_of(outcomes)
    lines = [
        f"{first.what}, {first.database}, seeds {', '.join(str(it.seed) for it in outcomes)}",
        "",
        "- " + _summary(outcomes, sum(row.times for row in rows)),
        "- " + _without_fault(outcomes),
        "",
        "| fault | times | longest stall after it, s | pace after it | calls that failed |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        drain = "" if row.drain is None else f"{row.drain:.0%}"
        lines.append(f"| {row.name} | {row.times} | {row.longest_stall:.1f} | {drain} | {row.errors} |")
    lines += ["", "| invariant | violations |", "|---|---|"]
    for name in RULES:
        lines.append(f"| {name} | {sum(len(it.violations.get(name, ())) for it in outcomes)} |")
    said = [
        line
        for it in outcomes
        for name, found in it.violations.items()
        for line in _some(f"- seed {it.seed}: {name}: ", found)
    ]
    return "\n".join([*lines, *([""] if said else []), *said])


def _some(beginning: str, words: Sequence[str]) -> list[str]:
    shown = [f"{beginning}{it}" for it in words[:_MOST_WORDS]]
    left = len(words) - len(shown)
    return [*shown, *([f"{beginning}and {left} more"] if left else [])]


def _summary(outcomes: Sequence[Outcome], faults: int) -> str:
    tasks, attempts = sum(it.tasks for it in outcomes), sum(it.attempts for it in outcomes)
    return (
        f"{tasks} tasks, {attempts} attempts, {faults} faults in {sum(it.seconds for it in outcomes):.0f} s"
    )


def _without_fault(outcomes: Sequence[Outcome]) -> str:
    paces = [it.reference_pace for it in outcomes]
    wait = max(it.reference_wait for it in outcomes)
    return (
        f"without any fault {min(paces):.2f} tasks a second or more, and at most {wait:.1f} s without a start"
    )


def as_json(outcomes: Sequence[Outcome]) -> str:
    return json.dumps([asdict(outcome) for outcome in outcomes], indent=2)


def from_json(text: str) -> list[Outcome]:
    return [Outcome(**{**it, "rows": tuple(Row(**row) for row in it["rows"])}) for it in json.loads(text)]


def _errors(history: History, fault: Fault) -> int:
    return sum(1 for call in history.calls if call.error and fault.began <= call.ended <= fault.ended + 5)


def _lower(one: float | None, other: float | None) -> float | None:
    known = [it for it in (one, other) if it is not None]
    return min(known, default=None)
