"""What the process that unpacks loads, since an agent's first package waits for it."""

from __future__ import annotations

import subprocess
import sys

from tests.support.environment import ROOT

LISTS = (
    "import sys; sys.path.append(sys.argv[1]); import worker_agent.unpack_process; "
    "print(*(name for name in sys.modules if name.startswith(('nodepool.', 'worker_agent.'))))"
)


def test_it_loads_the_rules_of_packages_and_nothing_else_of_ours() -> None:
    command = [sys.executable, "-I", "-S", "-c", LISTS, str(ROOT)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    loaded = set(told.stdout.split()) - {"nodepool.domain", "nodepool.domain.tasks", "worker_agent.runners"}
    assert loaded == {
        "nodepool.domain.errors",
        "nodepool.domain.limit_names",
        "nodepool.domain.safe_text",
        "nodepool.domain.tasks.package_rules",
        "nodepool.domain.tasks.zip_listing",
        "worker_agent.runners.launcher",
        "worker_agent.unpack",
        "worker_agent.unpack_process",
    }
