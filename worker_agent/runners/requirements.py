"""Packages that bring a requirements.txt: what is installed before the run, and how its failure reads."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nodepool.domain.tasks.package_rules import REQUIREMENTS
from worker_agent.runners import bootstrap as script
from worker_agent.runners.sandbox import Bootstrap


def bootstrap_for(work_dir: Path) -> Bootstrap | None:
    """None when the package has no requirements.txt; else its folder for installed packages is made."""
    if not (work_dir / REQUIREMENTS).is_file():
        return None
    folder = work_dir.with_name(work_dir.name + ".deps")
    folder.mkdir(exist_ok=True)
    return Bootstrap(script=_script(), host_dir=folder)


def install_problem(bootstrap: Bootstrap | None, *, network: bool, exit_code: int) -> str:
    """Why the task's own code never began, or nothing."""
    if bootstrap is None or exit_code == 0 or (bootstrap.host_dir / script.MARKER).exists():
        return ""
    if network:
        return "requirements.txt could not be installed"
    return (
        "requirements.txt could not be installed: it asks for what the sandbox does not have, and the task "
        "has no network (ask for it with the task's network setting; the pool needs ALLOW_TASK_NETWORK on)"
    )


@cache
def _script() -> str:
    return Path(script.__file__).read_text(encoding="utf-8")
