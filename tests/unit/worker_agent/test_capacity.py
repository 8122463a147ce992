"""What a machine is said to offer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from worker_agent.capacity import (
    REFERENCE_ROUNDS_PER_SECOND,
    Gpu,
    Hardware,
    benchmark_rounds_per_second,
    cpu_score,
    gpu_score,
    probe_hardware,
    usable_cores,
    usable_memory_bytes,
)

GIB = 1 << 30


def test_one_core_of_the_reference_is_a_thousand_points() -> None:
    assert cpu_score(REFERENCE_ROUNDS_PER_SECOND, 1) == 1000
    assert cpu_score(REFERENCE_ROUNDS_PER_SECOND / 2, 4) == 2000
    assert cpu_score(0.0001, 1) == 1


def test_the_benchmark_counts_rounds_by_its_clock() -> None:
    ticks: Iterator[int] = count()
    assert benchmark_rounds_per_second(lambda: next(ticks) * 0.01, 0.3) == pytest.approx(100.0)


def test_a_disturbed_slice_does_not_make_a_slow_machine() -> None:
    times = iter([*(n * 0.01 for n in range(4)), 9.0, *(9.0 + n * 0.01 for n in range(1, 200))])
    assert benchmark_rounds_per_second(lambda: next(times), 0.3) == pytest.approx(100.0)


def test_a_reference_gpu_is_a_thousand_points() -> None:
    assert gpu_score(2560, 1590) == 1000
    assert gpu_score(16896, 1980) > 8000


def test_a_cpu_quota_of_either_kind_bounds_the_cores(tmp_path: Path) -> None:
    assert usable_cores(8, tmp_path) == 8
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert usable_cores(8, tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(8, tmp_path) == 8
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(8, tmp_path) == 8
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    assert usable_cores(8, tmp_path) == 4
    assert usable_cores(2, tmp_path) == 2


def test_a_memory_limit_of_either_kind_bounds_the_memory(tmp_path: Path) -> None:
    assert usable_memory_bytes(16 * GIB, tmp_path) == 16 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory_bytes(16 * GIB, tmp_path) == 16 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    assert usable_memory_bytes(16 * GIB, tmp_path) == 4 * GIB
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert usable_memory_bytes(2 * GIB, tmp_path) == 2 * GIB


def test_a_small_machine_still_offers_one_gibibyte() -> None:
    assert Hardware(1, 1000, GIB // 2, Gpu()).memory_gb == 1
    assert Hardware(1, 1000, 3 * GIB + 5, Gpu()).memory_gb == 3


def test_this_machine_can_be_probed() -> None:
    hardware = probe_hardware()
    assert hardware.cpu_cores >= 1
    assert hardware.cpu_score >= 1
    assert hardware.memory_bytes > 0
    assert (hardware.gpu.score > 0) == bool(hardware.gpu.name)
