"""One run of one attempt, for tests of what an agent may let it do."""

from __future__ import annotations

from pathlib import Path

from worker_agent.runners.base import RunSpec
from worker_agent.runners.sandbox import Bootstrap

MIB = 1 << 20
SPEC = RunSpec(
    attempt_id="task_1:2",
    task_id="task_1",
    node_id="ann/pc",
    work_dir=Path("/data/work/task_1.2"),
    entry="main.py",
    memory_bytes=512 * MIB,
    cpus=1.5,
    gpu=False,
    image="python:3.12-slim",
    network=False,
    max_run_seconds=60,
    max_workdir_bytes=100 * MIB,
    tmpfs_bytes=16 * MIB,
    pids_limit=64,
)
BOOTSTRAP = Bootstrap(script="import sys", host_dir=Path("/data/work/task_1.2.deps"))
