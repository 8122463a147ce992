"""The simulator end to end on a small fleet: it says what it should, and finds nothing wrong.

`make long` has all of it: other sizes, bare Celery beside the pool, and its picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import simulate
from benchmarks.simulation import brim
from benchmarks.simulation.workload import Workload
from tests.support.environment import LONG, ROOT
from tests.support.processes import MARK

NODES, TASKS = (50, 300) if LONG else (30, 120)
SMALL = (
    *("--nodes", str(NODES), "--tasks", str(TASKS)),
    *("--brim-nodes", "20", "--brim-tasks", "300", "--json"),
)


def run_simulator(folder: Path, *options: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulate", *SMALL, "--output", str(folder / "out.json"), *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder), MARK: os.environ[MARK]},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout)
    assert json.loads((folder / "out.json").read_text()) == found
    assert [path.name for path in folder.iterdir() if path.name.startswith("hivemind-")] == []
    return found


def test_the_engine_places_and_breaks_no_invariant_and_silent_nodes_are_found(tmp_path: Path) -> None:
    plot = tmp_path / "cost.png"
    more = ("--sweep-sizes", "20", "--plot", str(plot)) if LONG else ()
    found = run_simulator(tmp_path, "--only", "engine,reports", *more)
    assert (found["nodes"], found["tasks"]) == (NODES, TASKS)
    assert found["violations"] == 0
    assert found["failed"] == []
    assert found["placements_per_s"] > 0
    assert found["placements_per_s_with_sql"] > 0
    assert 0 < found["decision_p50_ms"] <= found["decision_p99_ms"]
    assert 0 < found["packing_share"] <= 1
    assert found["celery"] is None  # not measured
    assert [engine["nodes"] for engine in found["engine"]] == ([20, NODES] if LONG else [NODES])
    assert found["life"]["nodes_lost"] > 0
    assert found["life"]["ended"] > 0
    for tier, waited in found["ageing"]["waited"].items():
        assert 0 < waited <= found["ageing"]["bounds"][tier]
    assert plot.exists() == LONG
    assert not LONG or plot.read_bytes().startswith(b"\x89PNG")
    # Reports are heard, and who sends none is found.
    assert found["sweep_cpu_share"] > 0
    assert found["redis_cpu_share"] > 0
    assert found["reports"]["attempts"] > 0
    assert found["detection_s"] > 0
    assert found["reports"]["replaced"]["n"] > 0


def test_two_dispatchers_place_everything_once(tmp_path: Path) -> None:
    (run,) = brim.measure(tmp_path, seed=1, users=200, nodes=20, tasks=150, dispatchers=(2,))
    assert run.violations.total() == 0, run.violations.examples
    assert run.placed > 0
    assert run.packing.share > 0


if LONG:

    def test_the_way_through_celery_and_the_brim_are_measured(tmp_path: Path) -> None:
        found = run_simulator(tmp_path, "--only", "celery,brim", "--dispatchers", "2")
        assert found["violations"] == 0
        assert found["failed"] == []
        assert found["celery"]["dispatchers"] == 2
        assert found["celery"]["placed"] > 0
        assert found["celery_ratio"] > 0
        assert [run["dispatchers"] for run in found["brim"]] == [1, 2]
        assert found["brim_packing_ratio"] > 0
        assert 0 < found["packing_share"] <= 1


def test_an_unknown_section_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", "--only", "engines"])
    with pytest.raises(SystemExit) as ended:
        simulate.main()
    assert ended.value.code == 2
    assert "no section is called engines" in capsys.readouterr().err


def test_the_same_seed_makes_the_same_nodes_and_tasks() -> None:
    made = []
    for _ in range(2):
        workload = Workload(7, 5)
        made.append((list(workload.nodes(20, 0.0)), workload.tasks(50, 0.0)))
    assert made[0] == made[1]
    assert Workload(8, 5).tasks(50, 0.0) != made[0][1]
