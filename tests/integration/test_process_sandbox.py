"""What a task of the process runner cannot see, reach or become."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT, not_here
from tests.support.runs import MIB, RunFactory, task_processes
from tests.support.waiting import wait_until
from worker_agent.runners.process import ProcessRunner

AS_ROOT = os.geteuid() == 0


def test_there_is_no_network(sandboxed: RunFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        refused, _ = sandboxed.script(code)
        allowed, _ = sandboxed.script(code, network=True)
    assert refused.exit_code == 1
    assert allowed.exit_code == 0


def test_with_the_network_abstract_sockets_of_the_machine_stay_closed(sandboxed: RunFactory) -> None:
    """They are the network namespace's, and some let in whoever has the right user id. Before Linux 6.12
    nothing can close them, which the documents say."""
    code = """
import socket
with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as caller:
    own.bind(chr(0) + 'of-the-run-itself')
    own.listen()
    caller.connect(chr(0) + 'of-the-run-itself')
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(chr(0) + 'of-the-machine-%d')
"""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"\0of-the-machine-{os.getpid()}")
        door.listen()
        end, live = sandboxed.script(code % os.getpid(), network=True)
    assert end.exit_code == (1 if _can_scope() else 0), live.output
    assert "PermissionError" in live.output or not _can_scope()


def _can_scope() -> bool:
    ask_for_version = ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), 1)
    return int(ask_for_version) >= 6


def test_the_agents_files_and_other_attempts_cannot_be_seen(sandboxed: RunFactory, run_folder: Path) -> None:
    secret = run_folder / "state/secret.txt"
    secret.write_text("secret")
    hidden = [str(secret), str(run_folder), str(ROOT / "pyproject.toml"), f"{sys.prefix}/pyvenv.cfg"]
    hidden += ["/home", "/var/lib", "/etc/shadow", "/etc/hostname"]
    code = f"""
import os
for path in {hidden!r}:
    print(path, os.path.exists(path))
print(sorted(os.listdir('/proc/1/root/') if os.access('/proc/1/root', os.R_OK) else []))
print('pids', [name for name in os.listdir('/proc') if name.isdigit()])
"""
    _, live = sandboxed.script(code)
    assert "True" not in live.output
    assert len(live.output.split("pids")[1].split(",")) <= 3


@pytest.mark.skipif(not AS_ROOT, reason="only root can drop to another user")
def test_the_agents_files_cannot_be_read_without_a_sandbox_either(
    unsandboxed: RunFactory, run_folder: Path
) -> None:
    runs = unsandboxed
    secret = run_folder / "secret.txt"
    secret.write_text("secret")
    secret.chmod(0o600)
    other = runs.start({"main.py": "import time; print('up', flush=True); time.sleep(600)"})
    other.await_output("up")
    paths = [str(secret), str(other.spec.work_dir / "main.py")]
    code = f"""
import os
for path in {paths!r}:
    try:
        print('read', open(path).read())
    except OSError:
        pass
for pid in {sorted(task_processes(other.spec.attempt_id))!r}:
    try:
        os.kill(pid, 9)
        print('killed', pid)
    except OSError:
        pass
"""
    end, live = runs.script(code)
    assert end.exit_code == 0
    assert live.output == ""
    other.run.stop()
    assert other.wait().stopped


def test_nothing_but_work_and_tmp_can_be_written(sandboxed: RunFactory) -> None:
    code = """
for path in '/x /usr/x /etc/x /dev/x /root/x /proc/sys/kernel/hostname /work/x /tmp/x /dev/shm/x'.split():
    try:
        open(path, 'w').write('x')
    except OSError:
        continue
    print(path)
"""
    _, live = sandboxed.script(code)
    assert live.output.split() == ["/work/x", "/tmp/x", "/dev/shm/x"]


def test_tmp_is_bounded(sandboxed: RunFactory) -> None:
    code = "open('/tmp/big', 'wb').write(bytes(64 << 20))"
    end, live = sandboxed.script(code, tmpfs_bytes=4 * MIB)
    assert end.exit_code == 1
    assert "No space left" in live.output


def test_a_task_has_no_privilege_and_can_gain_none(sandboxed: RunFactory) -> None:
    _, live = sandboxed.script("print(open('/proc/self/status').read())")
    status = dict(line.split(":", 1) for line in live.output.splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1"
    if AS_ROOT:
        for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert "0" not in status["Uid"].split()


def test_runs_at_the_same_time_have_different_users(runs: RunFactory) -> None:
    if not AS_ROOT:
        not_here("only root can drop to other users")
    code = "import os, time; print(os.getuid(), flush=True); time.sleep(600)"
    lives = [runs.start({"main.py": code}) for _ in range(3)]
    wait_until(lambda: all("\n" in live.output for live in lives), "all of them run")
    users = {live.output.strip() for live in lives}
    for live in lives:
        live.run.stop()
    for live in lives:
        live.wait()
    assert len(users) == 3


def test_two_runners_on_a_machine_never_share_a_user(runs: RunFactory, run_folder: Path) -> None:
    if not AS_ROOT:
        not_here("only root can drop to other users")
    other = ProcessRunner(run_folder / "other-state")
    try:
        code = "import os; print(os.getuid())"
        _, here = runs.script(code)
        (run_folder / "other").mkdir()
        _, there = RunFactory(other, run_folder / "other").script(code)
        assert here.output != there.output
    finally:
        other.close()
