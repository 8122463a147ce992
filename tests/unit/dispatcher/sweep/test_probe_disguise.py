"""Probes look like users' tasks: ids, needs, packages; and no two look alike."""

from __future__ import annotations

import io
import re
from collections import namedtuple
from random import Random
from typing import Any

import pytest

from dispatcher.sweep import probe_disguise
from hivemind.uploading import new_task_id
from nodepool.domain.tasks.package_rules import ENTRY_SCRIPTS, check_package
from nodepool.domain.trust.benchmark_probe import NAMES, Probe
from nodepool.settings import Settings
from tests.support.tasks import unpacked

NOW = 1_760_000_000.0
PROBE = Probe.of("ab12", work=10, chains=2)
Task = namedtuple("Task", "id memory_gb max_minutes package_bytes")


def shape(*recent: Any, seed: int = 1, memory_gb: int = 8) -> probe_disguise.ProbeShape:
    return probe_disguise.shape_of(recent, Random(seed), now=NOW, memory_gb=memory_gb, default_minutes=60)


@pytest.mark.parametrize(
    "like", ["", new_task_id(), "my-own-name", "\u4efb\u52d9"], ids=["none", "made", "chosen", "Chinese"]
)
def test_an_id_is_such_as_the_clients_make(like: str) -> None:
    recent = [Task(like, 0, 60, 100)] if like else []
    assert re.fullmatch(r"task_20251009_085320_[0-9a-f]{8}", shape(*recent).task_id)


def test_needs_are_those_of_a_task_that_a_user_sent_within_what_the_node_has() -> None:
    like = Task("task_00112233445566aa", 6, 33, 5000)
    found = shape(like)
    assert (found.memory_gb, found.max_minutes, found.package_bytes) == (6, 33, 5000)
    assert re.fullmatch("task_[0-9a-f]{16}", found.task_id)
    assert shape(like, memory_gb=2).memory_gb == 2


@pytest.mark.parametrize(
    ("score", "asked"), [(40, 40), (4137, 4100), (999, 990), (7, 7), (65_536, 65_000), (1, 1)]
)
def test_a_score_is_asked_for_as_people_do(score: int, asked: int) -> None:
    assert probe_disguise.round_as_people_do(score) == asked


@pytest.mark.parametrize("size", [0, 3_000, 30_000, 200_000])
def test_a_package_is_one_that_the_pool_takes_and_of_about_the_size_of_a_users(size: int) -> None:
    wanted = probe_disguise.ProbeShape(task_id="t", memory_gb=0, max_minutes=1, package_bytes=size)
    packed = probe_disguise.package(PROBE, wanted, Random(3), NOW)
    check_package(io.BytesIO(packed), Settings().package_limits, read_all=True)
    assert len(packed) < max(2_500, 1.5 * size)
    if size > 3_000:
        assert len(packed) > size / 2


def test_no_two_packages_of_a_probe_read_alike_and_none_says_what_it_is() -> None:
    wanted = probe_disguise.ProbeShape(task_id="t", memory_gb=0, max_minutes=1, package_bytes=0)
    texts = set()
    for seed in range(20):
        files = unpacked(probe_disguise.package(PROBE, wanted, Random(seed), NOW))
        (source,) = [files[name].decode() for name in ENTRY_SCRIPTS if name in files]
        compile(source, "main.py", "exec")
        assert not re.search("|".join(rf"\b{name}\b" for name in NAMES), source)
        assert not re.search("probe|chain|segment|seed|hivemind", source)
        texts.add(source)
    assert len(texts) == 20
