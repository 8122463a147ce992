"""What this machine has to offer: cores, memory, how fast a core is, a GPU. Asked once, at start.

Scores are points, 1000 of them for one core of the reference: a machine on which one core does
REFERENCE_ROUNDS_PER_SECOND of the benchmark below under CPython 3.11, about what a virtual core of an
AMD EPYC server does. The benchmark is plain interpreter work, which is what most tasks are made of.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

REFERENCE_POINTS = 1000
REFERENCE_ROUNDS_PER_SECOND = 2500.0
BENCHMARK_SECONDS = 0.3
_SLICES = 6
# gpu_score: 1000 points for what an NVIDIA T4 (2018) offers on paper: 2560 CUDA cores at 1590 MHz.
REFERENCE_GPU_CORE_MHZ = 2560 * 1590
_BYTES_PER_GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")
# cgroup v1 says "no limit" with a number of about 2 to the 63rd.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU; `name` is empty when there is none."""

    name: str = ""
    memory_gb: int = 0
    score: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """`cpu_score` is of all cores together."""

    cpu_cores: int
    cpu_score: int
    memory_bytes: int
    gpu: Gpu

    @property
    def memory_gb(self) -> int:
        """Whole GiB that can be promised; a machine with less than one still offers one."""
        return max(1, self.memory_bytes // _BYTES_PER_GIB)


def probe_hardware(clock: Callable[[], float] = time.thread_time) -> Hardware:
    """Takes about BENCHMARK_SECONDS. `clock` counts seconds of CPU, so that other load changes little."""
    cores = usable_cores(len(os.sched_getaffinity(0)), _CGROUP)
    score = cpu_score(benchmark_rounds_per_second(clock), cores)
    memory = usable_memory_bytes(psutil.virtual_memory().total, _CGROUP)
    return Hardware(max(1, math.floor(cores)), score, memory, probe_gpu())


def cpu_score(rounds_per_second: float, cores: float) -> int:
    return max(1, round(REFERENCE_POINTS * rounds_per_second / REFERENCE_ROUNDS_PER_SECOND * cores))


def benchmark_rounds_per_second(
    clock: Callable[[], float] = time.thread_time, seconds: float = BENCHMARK_SECONDS
) -> float:
    """The best of some slices: a core that was disturbed, or still asleep, is not a slow one."""
    _round()
    best = 0.0
    for _ in range(_SLICES):
        began, rounds, taken = clock(), 0, 0.0
        while taken < seconds / _SLICES:
            _round()
            rounds += 1
            taken = clock() - began
        best = max(best, rounds / taken)
    return best


def _round() -> int:
    """Fixed work: numbers, a dictionary, strings."""
    counts: dict[str, int] = {}
    total = 0
    for number in range(2000):
        total = (total * 31 + number * number) & 0xFFFFFFFF
        word = "w" + str(total % 97)
        counts[word] = counts.get(word, 0) + 1
    return total + len(counts)


def usable_cores(affinity: int, cgroup: Path) -> float:
    """The cores that this process may use, a container's CPU quota considered."""
    for quota_file, period_file in (
        (cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us"),
        (cgroup / "cpu.cfs_quota_us", cgroup / "cpu.cfs_period_us"),
    ):
        quota, period = _number(quota_file), _number(period_file)
        if quota and period and quota > 0:
            return min(affinity, quota / period)
    with contextlib.suppress(OSError, ValueError):
        quota_word, period_word = (cgroup / "cpu.max").read_text().split()
        if quota_word != "max":
            return min(affinity, int(quota_word) / int(period_word))
    return affinity


def usable_memory_bytes(installed: int, cgroup: Path) -> int:
    """The memory that this process may use, a container's limit considered."""
    for file in (cgroup / "memory/memory.limit_in_bytes", cgroup / "memory.max"):
        limit = _number(file)
        if limit and limit < _NO_LIMIT_BYTES:
            return min(installed, limit)
    return installed


def probe_gpu() -> Gpu:
    """The first GPU that NVIDIA's driver tells of; no driver, no GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Gpu()
    try:
        if not pynvml.nvmlDeviceGetCount():
            return Gpu()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        name = pynvml.nvmlDeviceGetName(device)
        memory = int(pynvml.nvmlDeviceGetMemoryInfo(device).total)
        mhz = int(pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_SM))
        cores = int(pynvml.nvmlDeviceGetNumGpuCores(device))
    except pynvml.NVMLError:
        return Gpu()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    text = name.decode() if isinstance(name, bytes) else str(name)
    return Gpu(text, round(memory / _BYTES_PER_GIB), gpu_score(cores, mhz))


def gpu_score(cuda_cores: int, max_mhz: int) -> int:
    """Peak arithmetic beside the reference GPU: cores x clock, as points."""
    return max(1, round(REFERENCE_POINTS * cuda_cores * max_mhz / REFERENCE_GPU_CORE_MHZ))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
