"""The command. Exit code 1 where an invariant was violated, 2 where nothing could be said."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import program, yardstick
from tests.chaos.plan import KINDS, Need, Plan, make_plan
from tests.chaos.report import Outcome, as_json, as_markdown, from_json, outcome_of
from tests.chaos.stage import StageOptions, have
from tests.support import databases, forking
from tests.support.environment import scrub
from tests.support.processes import MARK, end_all, open_folder, strays
from worker_agent.trash import remove_tree


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    if chosen.list:
        for kind in KINDS:
            print(f"{kind.name}: {', '.join(kind.parts)}")
        return 0
    if chosen.table:
        print(
            as_markdown([it for file in chosen.table for it in from_json(file.read_text(encoding="utf-8"))])
        )
        return 0
    scrub(os.environ)
    os.environ[MARK] = secrets.token_hex(8)
    options = StageOptions(
        database=chosen.database, runner=chosen.runner, sentinel=chosen.sentinel, clocks=chosen.clocks
    )
    first = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    try:
        plans = [_plan(chosen, seed, have(options)) for seed in range(first, first + chosen.seeds)]
    except ValueError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    if chosen.plan_only:
        for plan in plans:
            print("\n".join([f"seed {plan.seed}, {plan.seconds:.0f} s", *(f"  {it}" for it in plan.faults)]))
        return 0
    outcomes = [run_plan(plan, None if chosen.yardstick else options) for plan in plans]
    print(as_markdown(outcomes))
    if chosen.json:
        chosen.json.write_text(as_json(outcomes), encoding="utf-8")
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


def _plan(chosen: argparse.Namespace, seed: int, have: frozenset[Need]) -> Plan:
    wanted = [it for it in (chosen.faults or "").split(",") if it]
    seconds = chosen.minutes * 60
    if chosen.yardstick:
        return make_plan(seed, seconds, wanted, yardstick.NEEDS, applies=yardstick.applies)
    return make_plan(seed, seconds, wanted, have, several=chosen.several)


def run_plan(plan: Plan, options: StageOptions | None) -> Outcome:
    """A pool of its own for each; its folder stays where something was violated."""
    folder = open_folder()
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"chaos {plan.seed} {time.monotonic() - began:6.1f} s: {words}", file=sys.stderr, flush=True)

    outcome = None
    try:
        if options is None:
            history = yardstick.run(plan, folder, say)
            outcome = outcome_of(history, what="Celery", seed=plan.seed, database="redis")
        else:
            history = program.run(plan, options, folder, say)
            outcome = outcome_of(history, what="HiveMind", seed=plan.seed, database=options.database)
    finally:
        forking.close()
        databases.close()
        end_all(strays(os.environ[MARK], folder))
        if outcome is not None and outcome.is_clean:
            remove_tree(folder)
        else:
            say(f"what its parts said is in {folder}")
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, help="decides all that happens (default: any)")
    add("--seeds", type=int, default=1, help="so many runs, with this seed and those after it")
    add("--minutes", type=float, default=3.0)
    add("--database", choices=("sqlite", "postgres"), default="sqlite")
    add("--runner", choices=("process", "docker"), default="process")
    add("--sentinel", action="store_true", help="two brokers under three sentinels")
    add("--clocks", action="store_true", help="clocks jump, too: every part is started with libfaketime")
    add("--several", action="store_true", help="some faults come two at a time")
    add("--faults", metavar="KIND[:PART],…", help="only these")
    add("--list", action="store_true", help="the kinds of fault and their parts")
    add("--plan-only", action="store_true", help="what would happen")
    add(
        "--yardstick", choices=("celery",), help="the same load and faults, where they apply, on stock Celery"
    )
    add(
        "--table",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="one table of what earlier runs wrote with --json",
    )
    add("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
