"""An agent reports as often as the pool says while it runs, and does not believe what cannot be."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from nodepool import watchdog
from tests.support.agent_stage import Stage, StageMaker

SLOW = {"pace_key": "pool:pace", "report_period_seconds": 600.0, "lease_seconds": 2000.0}


def _hear_out(ear: socket.socket) -> None:
    """Until nothing more is said; what was said before is some hundreds at the most."""
    for _ in range(1000):
        ear.recv(64)


def said_at(stage: Stage) -> float:
    """When the agent's last report was written, by its own word."""
    return float(json.loads(str(stage.valkey.admin.get(f"node:{stage.node_id}:report")))["at"])


def await_another_report(stage: Stage) -> None:
    before = said_at(stage)
    stage.wait(lambda: said_at(stage) > before, "there is another report")


def test_the_pace_is_read_with_every_report_and_nonsense_is_not_followed(make_stage: StageMaker) -> None:
    stage = make_stage(**SLOW)
    admin = stage.valkey.admin
    admin.set("pool:pace", "0.3", ex=600)
    stage.start()
    # It enrolled with ten minutes; the first report brought the pool's present pace.
    await_another_report(stage)
    for text in ("soon", "", "-1", "1e9", "nan"):
        admin.set("pool:pace", text, ex=600)
        await_another_report(stage)
        await_another_report(stage)
    admin.delete("pool:pace")
    await_another_report(stage)
    await_another_report(stage)


def test_a_pool_that_names_no_pace_gets_reports_at_the_first_period(make_stage: StageMaker) -> None:
    stage = make_stage(report_period_seconds=0.3, lease_seconds=5.0)
    stage.valkey.admin.set("pool:pace", "2.5", ex=600)
    stage.start()
    await_another_report(stage)
    assert "report.failed" not in stage.agent.log()


def test_an_agent_says_that_it_works_to_whoever_started_it(make_stage: StageMaker, run_folder: Path) -> None:
    stage = make_stage()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(run_folder / "notify"))
        ear.settimeout(60)
        stage.agent.env[watchdog.VARIABLE] = str(run_folder / "notify")
        stage.start()
        assert ear.recv(64) == watchdog.READY
        assert [ear.recv(64) for _ in range(3)] == [watchdog.ALIVE] * 3
        stage.agent.freeze()
        ear.settimeout(2.0)
        with pytest.raises(TimeoutError):
            _hear_out(ear)
        stage.agent.thaw()
        ear.settimeout(60)
        assert ear.recv(64) == watchdog.ALIVE
