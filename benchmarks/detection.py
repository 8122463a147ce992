"""`python -m benchmarks.detection`: from the `kill -9` of an agent until its task runs on another one.

The default settings, loopback only. The agents are started here and not by `hivemind up`, which would
start a killed one again before anybody could miss it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.figures import Figure, FigureReport, show, spread
from benchmarks.pool import BenchmarkError, Pool, stop_on_signals
from hivemind import NodePoolClient
from hivemind.errors import ClientError
from nodepool.settings import Settings

AIM_SECONDS = 16.0
ONLINE_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
TASK = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"


class AgentProcess:
    """One agent's process, started as often as it was killed."""

    def __init__(self, pool: Pool, name: str, username: str, password: str) -> None:
        self.node_id = f"{username}/{name}"
        data_dir = pool.data_dir / f"agent-{name}"
        self._argv = [
            sys.executable, "-m", "worker_agent", "--gateway", pool.address, "--username", username,
            "--node", name, "--runner", "process", "--data-dir", str(data_dir),
        ]  # fmt: skip
        self._environment = {**os.environ, "HIVEMIND_PASSWORD": password}
        self._log = pool.data_dir / "logs" / f"agent-{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Started anew where it was killed, so that it ends what its earlier life left running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def agents(pool: Pool, client: NodePoolClient) -> Iterator[dict[str, AgentProcess]]:
    username, password = "detection", secrets.token_urlsafe(16)
    client.register(username, password)
    client.login(username, password)
    made = {
        agent.node_id: agent
        for agent in (AgentProcess(pool, name, username, password) for name in ("a", "b"))
    }
    try:
        for agent in made.values():
            agent.start()
        await_online(client, made)
        yield made
    finally:
        for agent in made.values():
            agent.stop()


def await_online(client: NodePoolClient, wanted: dict[str, AgentProcess]) -> None:
    deadline = time.monotonic() + ONLINE_SECONDS
    while {node.node_id for node in client.nodes() if node.status == "ONLINE"} < wanted.keys():
        if time.monotonic() > deadline:
            raise BenchmarkError("the agents did not come online")
        time.sleep(POLL_SECONDS)


def await_run(client: NodePoolClient, task_id: str, attempt: int, seconds: float) -> str:
    """The node on which this attempt's program has begun."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        info = client.status(task_id)
        if info.attempt_number == attempt and info.state == "RUNNING" and "begun" in client.logs(task_id):
            return info.node
        time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"attempt {attempt} of {task_id} did not run within {seconds:g} s")


def one_round(client: NodePoolClient, both: dict[str, AgentProcess], program: Path) -> float:
    task_id = client.submit(program).task_id
    victim = both[await_run(client, task_id, 1, ONLINE_SECONDS)]
    # Anywhere between two reports and two sweeps.
    time.sleep(random.uniform(0.0, 5.0))
    killed_at = time.monotonic()
    victim.kill()
    await_run(client, task_id, 2, 4 * AIM_SECONDS)
    taken = time.monotonic() - killed_at
    victim.start()
    client.stop(task_id)
    client.wait(task_id, timeout_seconds=ONLINE_SECONDS)
    await_online(client, both)
    return taken


def measure(pool: Pool, rounds: int) -> Figure:
    program = pool.data_dir / "waits.py"
    program.write_text(TASK, encoding="utf-8")
    with NodePoolClient(pool.address) as client, agents(pool, client) as both:
        taken = []
        for number in range(rounds):
            taken.append(one_round(client, both, program))
            print(f"detection: {number + 1} of {rounds}: {taken[-1]:.2f} s", file=sys.stderr, flush=True)
    return figure(taken)


def figure(taken: Sequence[float]) -> Figure:
    defaults = Settings.model_construct()
    return Figure(
        name="detection",
        what="kill -9 of an agent until its task's program runs on another one",
        unit="s",
        n=len(taken),
        value=max(taken),
        aim=f"the longest under {AIM_SECONDS:g} s",
        met=max(taken) < AIM_SECONDS,
        pool=spread(taken),
        yardsticks={"NODE_LATE_SECONDS, counted from the last report": defaults.node_late_seconds},
        notes=["Default settings. The clock runs from the kill, which comes at any time after a report."],
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="agents that are killed, one after the other")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("bench-results/detection.json"))
    given = parser.parse_args()
    stop_on_signals()
    report = FigureReport()
    folder = Path(tempfile.mkdtemp(prefix="hivemind-bench-"))
    # Tasks run as users of their own, who go through it.
    folder.chmod(0o711)
    try:
        with Pool(folder / "pool", agents=0, runner="process", flower=False) as pool:
            report.figures.append(measure(pool, max(1, given.rounds)))
    except (BenchmarkError, ClientError) as error:
        report.failed.append(f"detection: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console = Console(width=max(100, Console().width))
    show(report, console)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(report.as_json(), encoding="utf-8")
    console.print(f"\nJSON in {given.json}")
    return 0 if report.figures and all(each.met for each in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
