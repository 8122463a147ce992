"""The way in which all tests are run: whatever becomes of one of the processes, it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import forking
from tests.support.environment import ROOT

CONFTEST = """
import os, pytest
from tests.support import forks

def pytest_addoption(parser):
    parser.addoption("--forks", type=int)

def pytest_configure(config):
    os.environ["HIVEMIND_TEST_RUN"] = "a-run-of-its-own"
    config.pluginmanager.register(forks.Forks(config.getoption("--forks")), "forks")

@pytest.fixture(scope="session")
def ends_badly():
    yield
    raise RuntimeError("what the session had cannot be taken down")

@pytest.fixture(scope="module")
def of_the_module():
    made = []
    yield made
    assert made == ["one", "two"]
"""
GOOD = """
def test_one(of_the_module):
    of_the_module.append("one")
def test_two(of_the_module):
    of_the_module.append("two")
"""
BAD = """
import os, signal, sys
def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)
def test_fails():
    print("words of the test that fails")
    assert 1 == 2
"""
LATE = """
def test_well(ends_badly):
    pass
"""


def test_what_fails_in_a_forked_process_and_what_ends_it_is_told(tmp_path: Path) -> None:
    for name, text in (("conftest", CONFTEST), ("test_good", GOOD), ("test_bad", BAD), ("test_late", LATE)):
        (tmp_path / f"{name}.py").write_text(text)
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--forks", "2", "-p", "no:randomly", "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), str(tmp_path)],
        env={**kept, forking.SWITCH: "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 failed, 3 passed" in done.stdout, done.stdout
    assert done.stdout.count("test session starts") == 1
    assert "FAILED test_bad.py::test_dies - the process of this test ended with -9 in it" in done.stdout
    assert "words of the test that fails" in done.stdout
    # Nobody's test, so it is told as it stands.
    assert "what the session had cannot be taken down" in done.stderr
    assert "ended with 1; what it said stands above" in done.stdout
