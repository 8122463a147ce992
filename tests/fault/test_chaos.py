"""A short fault program: a pool under load is broken in one way after the other, and stays what it promises.

`make chaos` has the long one, with every kind of fault and both databases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import program
from tests.chaos.plan import make_plan
from tests.chaos.report import as_markdown, outcome_of
from tests.chaos.stage import StageOptions, have
from tests.support.environment import LONG
from tests.support.processes import open_folder
from worker_agent.trash import remove_tree

SEED = 43
CALM_SECONDS = 11.5
# What cost most when it went wrong, all of it in the order and for as long as the seed says.
SECONDS, FAULTS = 60.0, ("kill:broker", "frozen:agents-broker", "keys:assignments")
if LONG:
    SECONDS, FAULTS = 110.0, (*FAULTS, "kill:gateway", "stop:pool", "keys:reservations")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = open_folder()
    yield made
    remove_tree(made)


@pytest.mark.timeout(420)
def test_no_invariant_is_violated_while_a_pool_is_broken_and_mended(folder: Path) -> None:
    options = StageOptions()
    plan = make_plan(SEED, SECONDS, FAULTS, have(options), calm_seconds=CALM_SECONDS)
    history = program.run(plan, options, folder, print)
    outcome = outcome_of(history, what="HiveMind", seed=SEED, database=options.database)
    print(as_markdown([outcome]))
    assert len(history.faults) == len(plan.faults) == len(FAULTS)
    assert outcome.is_clean, as_markdown([outcome])
