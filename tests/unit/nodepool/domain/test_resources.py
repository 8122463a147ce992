"""Amounts: their bounds, what a task takes and what a node can give."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.resources import (
    MAX_AMOUNT,
    Claim,
    Overcommit,
    Resources,
    capacity_of,
    claim_of,
    whole_gibibytes,
)

AMOUNT = st.integers(0, MAX_AMOUNT)


@pytest.mark.parametrize("name", ["cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb"])
@pytest.mark.parametrize("amount", [-1, -(2**31), MAX_AMOUNT + 1, 2**31 - 1])
def test_amounts_below_nothing_and_beyond_all_machines_are_refused(name: str, amount: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{name} must be .*not {amount}$"):
        Resources(**{name: amount})


def test_memory_that_is_not_named_is_the_pools_default() -> None:
    assert claim_of(Resources(), default_memory_mb=512) == Claim(0, 512, 0, 0, tasks=1)
    assert claim_of(Resources(memory_gb=2), default_memory_mb=512).memory_mb == 2048


def test_capacity_is_the_total_with_overcommit() -> None:
    total = Resources(cpu_score=1001, memory_gb=3, gpu_score=7, gpu_memory_gb=5)
    overcommit = Overcommit(cpu=1.5, memory=0.5, gpu=2.0, gpu_memory=1.0)
    assert capacity_of(total, max_tasks=9, overcommit=overcommit) == Claim(1501, 1536, 14, 5, tasks=9)


@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT, st.integers(1, 1 << 20))
def test_a_claim_takes_one_slot_and_never_no_memory(
    cpu: int, memory: int, gpu: int, gpu_memory: int, default: int
) -> None:
    claim = claim_of(Resources(cpu, memory, gpu, gpu_memory), default_memory_mb=default)
    assert (claim.cpu_score, claim.gpu_score, claim.gpu_memory_gb, claim.tasks) == (cpu, gpu, gpu_memory, 1)
    assert claim.memory_mb > 0


@given(AMOUNT, AMOUNT, st.integers(0, 256))
def test_without_overcommit_capacity_is_exactly_the_total(cpu: int, memory: int, slots: int) -> None:
    plain = Overcommit(cpu=1.0)
    capacity = capacity_of(Resources(cpu, memory), max_tasks=slots, overcommit=plain)
    assert capacity == Claim(cpu, memory * 1024, 0, 0, tasks=slots)


def test_memory_in_mebibytes_is_what_is_claimed() -> None:
    needs = Resources(memory_gb=whole_gibibytes(1536), memory_mb=1536)
    assert (needs.memory_gb, claim_of(needs, default_memory_mb=512).memory_mb) == (2, 1536)
    with pytest.raises(InvalidInputError, match="differ: name one of them"):
        Resources(memory_gb=1, memory_mb=1536)
