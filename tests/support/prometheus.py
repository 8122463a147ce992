"""Debian's Prometheus for tests: scrapes a pool twice a second; the pool's alerts, without their waits."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from pathlib import Path

from tests.support.environment import ROOT, free_port, not_here
from tests.support.processes import TestProcess
from tests.support.waiting import wait_until

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"


class TestPrometheus(TestProcess):
    """Started by start()."""

    def __init__(self, folder: Path, gateway_port: int, dispatcher_port: int) -> None:
        program = shutil.which("prometheus")
        if program is None:
            not_here("Prometheus is not installed")
        self.port = free_port()
        folder.mkdir()
        rules = re.sub(r"^ +for: .*\n", "", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(rules)
        jobs = {"hivemind-gateway": gateway_port, "hivemind-dispatcher": dispatcher_port}
        configuration = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for job, port in jobs.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        super().__init__(
            "prometheus",
            [
                program, f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            {"PATH": "/usr/bin:/bin", "GOMAXPROCS": "1"},
            folder,
            folder / "prometheus.log",
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        wait_until(lambda: self._ask("/-/ready") is not None, "Prometheus is ready", 60)

    def firing(self) -> set[str]:
        told = json.loads(self._ask("/api/v1/alerts") or "{}")
        alerts = told.get("data", {}).get("alerts", [])
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _ask(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return None
