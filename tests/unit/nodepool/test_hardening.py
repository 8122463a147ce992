"""What a process that holds secrets shows of them: real processes, looked at from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodepool import hardening

SECRET = "a-very-secret-word"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux shows processes in /proc")


@contextmanager
def process(source: str, environment: Mapping[str, str], *pipes: int) -> Iterator[subprocess.Popen[str]]:
    """A Python that runs this, says a line, and waits for the end of its input."""
    program = (
        f"import os, sys\nfrom nodepool import hardening\n{source}\nprint('', flush=True)\nsys.stdin.read()"
    )
    root = str(Path(hardening.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**environment, "PYTHONPATH": root}, pass_fds=pipes,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        yield started


def line_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


@LINUX
def test_what_was_forgotten_is_not_even_in_the_environment_that_the_process_began_with() -> None:
    given = dict.fromkeys(hardening.SECRET_NAMES, SECRET) | {"LANG": "C.UTF-8"}
    with process("hardening.forget_secrets()", given) as started:
        assert line_of(started) == ""
        shown = Path(f"/proc/{started.pid}/environ").read_bytes()
    assert b"LANG=C.UTF-8" in shown
    assert SECRET.encode() not in shown


def test_it_is_gone_for_the_process_and_its_children_as_well() -> None:
    source = "hardening.forget_secrets(); print(sorted(hardening.SECRET_NAMES & os.environ.keys()))"
    with process(source, dict.fromkeys(hardening.SECRET_NAMES, SECRET)) as started:
        assert line_of(started) == "[]"


def test_secrets_come_over_a_pipe_and_are_in_no_environment_of_the_process() -> None:
    plain, secrets = hardening.split({"REDIS_URL": SECRET, "PATH": os.environ["PATH"], "DB_PATH": "x"})
    assert plain == {"PATH": os.environ["PATH"], "DB_PATH": "x"}
    pipe = hardening.pipe_of(secrets)
    source = (
        "hardening.begin(os.environ); print(os.environ['REDIS_URL'], hardening.PIPE_VARIABLE in os.environ)"
    )
    with process(source, {**plain, hardening.PIPE_VARIABLE: str(pipe)}, pipe) as started:
        os.close(pipe)
        assert line_of(started) == f"{SECRET} False"
        if sys.platform == "linux":
            assert SECRET.encode() not in Path(f"/proc/{started.pid}/environ").read_bytes()


def test_without_a_pipe_nothing_begins() -> None:
    environment = {"REDIS_URL": SECRET}
    assert not hardening.begin(environment)
    assert environment == {"REDIS_URL": SECRET}


def test_a_hardened_process_leaves_no_core_file() -> None:
    source = "import resource; hardening.harden(); print(resource.getrlimit(resource.RLIMIT_CORE))"
    with process(source, {}) as started:
        assert line_of(started) == "(0, 0)"
        if sys.platform == "linux":
            assert resource.prlimit(started.pid, resource.RLIMIT_CORE) == (0, 0)
