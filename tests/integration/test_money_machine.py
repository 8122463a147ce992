"""Thousands of steps of the money's state machine: the sum stays, nobody owes, every hold ends once."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from nodepool.settings import Settings
from tests.support.environment import LONG
from tests.support.money_machine import MAX_ATTEMPTS, Money, Stage, add_people
from tests.support.stores import migrated

# Some examples are shorter than they may be.
EXAMPLES, STEPS = 1000 if LONG else 35, 50
LEAST_STEPS = EXAMPLES * STEPS * 0.85


# It computes for minutes; a busy machine may need many for that.
@pytest.mark.timeout(1200)
def test_no_order_of_events_crashes_and_repeats_makes_or_loses_a_cpt(tmp_path: Path) -> None:
    path = tmp_path / "template.db"
    with migrated(f"sqlite:///{path}") as database:
        database.write(add_people)
    with contextlib.closing(sqlite3.connect(path)) as template, contextlib.closing(Stage(template)) as stage:
        Money.stage = stage
        Money.settings = Settings.model_validate({"max_attempts": MAX_ATTEMPTS})
        Money.steps = 0
        run_state_machine_as_test(
            Money,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert Money.steps >= LEAST_STEPS
