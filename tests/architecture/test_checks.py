"""The repository's own checks pass: import contracts and file lengths. Generated code has `make check`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(
            [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], id="import contracts"
        ),
        pytest.param([sys.executable, "scripts/check_lengths.py"], id="lengths"),
    ],
)
def test_a_check_of_the_repository_passes(argv: list[str]) -> None:
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
