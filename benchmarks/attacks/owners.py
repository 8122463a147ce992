"""Two accounts with a node each, whose results the pool has to compare."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.attacks import bombs
from benchmarks.attacks.target import Target
from hivemind import ClientError, NodePoolClient
from hivemind.needs import TaskNeeds

RESULT_MIB = 600
PATIENCE_SECONDS = 50.0
_STOP_SECONDS = 20.0
_PERIOD_SECONDS = 0.2
_PROGRAM = f"""\
for number in range(6):
    with open(f"zeros{{number}}", "wb") as file:
        for _ in range({RESULT_MIB // 6}):
            file.write(bytes(1 << 20))
"""


def compared_results(target: Target) -> Counter[str]:
    """A task with two runs, whose results unpack to RESULT_MIB each."""
    found: Counter[str] = Counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivemind-bench-")))
        folder.chmod(0o711)
        friend = _friend(target)
        for username, password in ((target.username, target.password), friend):
            stack.enter_context(_agent(target.address, username, password, folder / username))
        with NodePoolClient(target.address, token=target.token) as client:
            wanted = {f"{target.username}/node", f"{friend[0]}/node"}
            _wait(lambda: wanted <= {node.node_id for node in client.nodes()})
            package = folder / "main.py"
            package.write_text(_PROGRAM, encoding="utf-8")
            task = client.submit(package, TaskNeeds(replicas=2, max_minutes=2))
            try:
                found[client.wait(task.task_id, timeout_seconds=PATIENCE_SECONDS).state] += 1
            except ClientError as error:
                found[type(error).__name__] += 1
    return found


def _friend(target: Target) -> tuple[str, str]:
    name, password = bombs.name(), secrets.token_urlsafe(16)
    with NodePoolClient(target.address) as client:
        client.register(name, password)
    return name, password


@contextmanager
def _agent(address: str, username: str, password: str, folder: Path) -> Iterator[None]:
    argv = [
        sys.executable, "-m", "worker_agent", "--gateway", address, "--username", username, "--node", "node",
        "--runner", "process", "--data-dir", str(folder),
    ]  # fmt: skip
    process = subprocess.Popen(
        argv,
        env={**os.environ, "HIVEMIND_PASSWORD": password},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Callable[[], bool]) -> None:
    over = time.monotonic() + PATIENCE_SECONDS
    while not ready() and time.monotonic() < over:
        time.sleep(_PERIOD_SECONDS)
