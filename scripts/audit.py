"""audit.py PIP_AUDIT LOCK…: asks for known vulnerabilities of what is locked, and says what it could not ask.

Ends with 0 when every package was looked up and none has any, with 1 when one has, and with 75 when the data
could not be reached for some: pip-audit itself ends with 0 where a package is unknown to who is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOUND, UNREACHED = 1, 75
SERVICES = ("pypi", "osv")
MAX_SECONDS = 600


@dataclass
class Answer:
    """Of one service: what it knew, and what it was not asked or did not know."""

    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    clean: set[str] = field(default_factory=set)
    problem: str = ""


def ask(pip_audit: str, lock: Path, service: str) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "audit.json"
        command = [pip_audit, "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
        command += ["--vulnerability-service", service, "--format", "json", "--output", str(output)]
        done = subprocess.run(
            [*command, "--requirement", str(lock)],
            capture_output=True, text=True, check=False, timeout=MAX_SECONDS,
        )  # fmt: skip
        try:
            return read(json.loads(output.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            said = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
            return Answer(problem=said[-1][:300])


def read(report: Any) -> Answer:
    answer = Answer()
    for package in report["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            answer.problem = package["skip_reason"]
        elif package["vulns"]:
            answer.vulnerable[name] = [found["id"] for found in package["vulns"]]
        else:
            answer.clean.add(name)
    return answer


def packages_of(lock: Path) -> int:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return sum("==" in line and not line.startswith(("#", " ")) for line in lines)


def audit(pip_audit: str, lock: Path) -> int:
    asked = [ask(pip_audit, lock, service) for service in SERVICES]
    best = max(asked, key=lambda answer: len(answer.clean) + len(answer.vulnerable))
    for name, ids in sorted(best.vulnerable.items()):
        print(f"{lock}: {name}: {', '.join(ids)}")
    # Some are for other systems than this one, and are not looked up.
    looked_up, unknown = len(best.clean) + len(best.vulnerable), best.problem
    if unknown:
        total = packages_of(lock)
        print(f"{lock}: NOT AUDITED: the data could be had for {looked_up} of {total} packages: {unknown}")
    elif not best.vulnerable:
        print(f"{lock}: {looked_up} packages were looked up, none has a known vulnerability")
    if best.vulnerable:
        return FOUND
    return UNREACHED if unknown else 0


def main(argv: Sequence[str]) -> int:
    if len(argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    results = [audit(argv[0], Path(lock)) for lock in argv[1:]]
    return FOUND if FOUND in results else max(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
