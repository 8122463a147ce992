"""deploy/prometheus and deploy/grafana: rules that promtool takes, and queries for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodepool.metrics.catalogue import MetricKind, entries
from tests.support.environment import ROOT, not_here

FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "hivemind.json"
_METRIC = re.compile(r"\b(?:hivemind|celery)_[a-z_]+")
# Of Prometheus itself, and of its client in every process.
_OTHERS = {"up", "process_resident_memory_bytes"}


def known_series() -> set[str]:
    names = set()
    for entry in entries():
        if entry.kind is MetricKind.HISTOGRAM:
            names |= {f"{entry.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            names.add(entry.name)
    return names


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries_of_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def promtool(*arguments: str) -> str:
    if shutil.which("promtool") is None:
        not_here("promtool (Debian's package prometheus) is not installed")
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, cwd=FOLDER, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_configurations_and_makes_each_alert_fire() -> None:
    for name in ("prometheus.yml", "prometheus.compose.yml"):
        promtool("check", "config", name)
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


def test_every_alert_is_made_to_fire_and_says_what_to_do() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    fired = [
        re.findall(r'alertname="(\w+)"', sample["labels"])[0]
        for test in tests
        for sample in test["promql_expr_test"][0]["exp_samples"]
    ]
    assert sorted(fired) == sorted(rule["alert"] for rule in rules())
    assert any(not test["promql_expr_test"][0]["exp_samples"] for test in tests), "a pool that is well"
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *queries_of_dashboard()])
def test_a_query_names_metrics_that_there_are(query: str) -> None:
    named = set(_METRIC.findall(query))
    assert named <= known_series()
    assert named or any(name in query for name in _OTHERS)


def test_promtool_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    records = [
        {"record": f"dashboard:{number}", "expr": query}
        for number, query in enumerate(queries_of_dashboard())
    ]
    assert len(records) > 30
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    promtool("check", "rules", str(file))


def test_the_dashboard_finds_its_data_source() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
