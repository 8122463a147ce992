"""Which task may begin in which sandbox that is kept warm, and what is said over its line."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.run_spec import MIB, SPEC
from worker_agent.runners import warm_line
from worker_agent.runners.base import RunSpec, SandboxReuse
from worker_agent.runners.sandbox import (
    EngineFacts,
    container_options,
    warm_command,
    warm_limits,
    warm_options,
)
from worker_agent.runners.warm_line import Frames, LineError, TaskEnd
from worker_agent.runners.warm_rules import (
    SandboxKind,
    SandboxLimits,
    SandboxUse,
    choose,
    fits_warm,
    may_run_again,
    superfluous,
)

ANN = replace(SPEC, again=SandboxReuse("ann", 3, 60.0))
ENGINE = EngineFacts(cpus=4, cpu_quota=True)
NOW = 1000.0


def use(spec: RunSpec = ANN, **changes: object) -> SandboxUse:
    made = SandboxUse(SandboxKind.of(spec), SandboxLimits.of(spec))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def used(spec: RunSpec = ANN, owner: str = "ann", **changes: object) -> SandboxUse:
    return use(spec, owner=owner, **{"tasks": 1, "ends_at": NOW + 60, **changes})


def test_an_owners_next_task_gets_the_sandbox_that_it_has_used() -> None:
    own, unused = used(), use()
    assert choose([unused, own], ANN, NOW) is own


@pytest.mark.parametrize(
    "spec",
    [
        replace(ANN, again=SandboxReuse("bob", 3, 60.0)),
        replace(ANN, again=None),
        replace(ANN, secrets={"TOKEN": "x"}),
        replace(ANN, memory_bytes=ANN.memory_bytes + MIB),
        replace(ANN, cpus=0.5),
        replace(ANN, image="other:1"),
        replace(ANN, network=True),
        replace(ANN, gpu=True),
        replace(ANN, pids_limit=65),
        replace(ANN, tmpfs_bytes=32 * MIB),
        replace(ANN, max_workdir_bytes=MIB),
    ],
)
def test_nobody_else_and_nothing_else_gets_it(spec: RunSpec) -> None:
    assert choose([used()], spec, NOW) is None


@pytest.mark.parametrize("changes", [{"tasks": 3}, {"ends_at": NOW}])
def test_it_ends_with_its_tasks_and_with_its_time(changes: dict[str, object]) -> None:
    assert choose([used(**changes)], ANN, NOW) is None


def test_nobody_is_no_owner() -> None:
    nobody = replace(ANN, again=SandboxReuse("", 3, 60.0))
    assert not may_run_again(used(owner=""), nobody, NOW)
    assert choose([used(owner="")], nobody, NOW) is None


def test_one_that_nobody_has_used_is_for_everybody_whatever_its_limits() -> None:
    other = replace(ANN, memory_bytes=64 * MIB, secrets={"TOKEN": "x"}, again=None)
    right, wrong = use(other, waits_since=5.0), use(ANN, waits_since=1.0)
    assert choose([wrong, right], other, NOW) is right
    assert choose([wrong], other, NOW) is wrong


def test_what_waits_for_nobody_goes() -> None:
    usual = SandboxKind.of(ANN)
    late, old = used(ends_at=NOW), use(replace(ANN, image="other:1"))
    first, second, third = (used(waits_since=float(number)) for number in range(3))
    assert superfluous([late, old, third, first, second], usual, 2, NOW) == [late, old, first]


def test_what_needs_mounts_of_its_own_does_not_fit() -> None:
    assert fits_warm(ANN, has_requirements=False)
    assert not fits_warm(ANN, has_requirements=True)
    assert not fits_warm(replace(ANN, inputs_dir=ANN.work_dir), has_requirements=False)


def test_a_warm_container_has_the_options_of_any_other_and_nothing_of_a_task() -> None:
    spec = replace(ANN, arguments=("hidden",), environment={"A": "hidden"}, secrets={"B": "hidden"})
    warm = warm_options(spec, "boot", user="60706:60706", engine=ENGINE)
    plain = container_options(replace(SPEC), user="60706:60706", engine=ENGINE)
    assert "hidden" not in repr(warm)
    assert SPEC.task_id not in repr(warm["Env"])
    differ = {name for name, value in plain["HostConfig"].items() if warm["HostConfig"].get(name) != value}
    # The same CPU in numbers that can be changed, and room for its first process, which ends last.
    assert differ == {"Init", "OomScoreAdj", "Memory", "MemorySwap", "NanoCpus"}
    assert warm["HostConfig"]["CpuQuota"] / warm["HostConfig"]["CpuPeriod"] == SPEC.cpus
    assert warm["HostConfig"]["Memory"] == SPEC.memory_bytes + 8 * MIB
    assert {name for name in plain if plain[name] != warm[name]} == {
        "Cmd", "Env", "Labels", "AttachStdin", "OpenStdin", "StdinOnce", "HostConfig",
    }  # fmt: skip


def test_limits_are_set_anew_by_the_same_numbers() -> None:
    spec = replace(ANN, memory_bytes=64 * MIB, cpus=0.5)
    limits, host = warm_limits(spec, ENGINE), warm_options(spec, "", user="1:1", engine=ENGINE)["HostConfig"]
    assert limits == {
        "mem_limit": host["Memory"],
        "memswap_limit": host["MemorySwap"],
        "cpu_shares": host["CpuShares"],
        "cpu_period": host["CpuPeriod"],
        "cpu_quota": host["CpuQuota"],
    }


def test_a_task_begins_with_the_words_of_a_container_of_its_own() -> None:
    spec = replace(ANN, arguments=("a", "b c"))
    plain = container_options(spec, user="1:1", engine=ENGINE)
    words, of_script = warm_command(spec)
    assert words == [*plain["Entrypoint"], *plain["Cmd"]]
    assert words[-of_script:] == ["main.py", "a", "b c"]
    assert warm_command(replace(spec, entry="run.sh")) == (["sh", "run.sh", "a", "b c"], 0)


def test_frames_cut_anywhere_are_read_whole() -> None:
    told = [(b"O", bytes([number]) * number) for number in range(40)] + [(b"E", b"137 1500000 2048 1")]
    wire = b"".join(kind + len(data).to_bytes(4, "big") + data for kind, data in told)
    frames, seen, chooser = Frames(), [], random.Random(5)
    while wire:
        size = chooser.randrange(1, 30)
        seen += list(frames.feed(wire[:size]))
        wire = wire[size:]
    assert seen == told
    assert TaskEnd.of(told[-1][1]) == TaskEnd(137, 1.5, 2 << 20, 1)


@pytest.mark.parametrize("data", [b"X\0\0\0\0", b"O\xff\xff\xff\xff", b"Traceback (most recent call last)"])
def test_what_no_sandbox_says_is_noticed(data: bytes) -> None:
    with pytest.raises(LineError):
        list(Frames().feed(data))


@pytest.mark.parametrize("text", [b"", b"1 2 3", b"a b c d", b"1 2 3 4 5"])
def test_an_end_that_cannot_be_read_is_noticed(text: bytes) -> None:
    with pytest.raises(LineError):
        TaskEnd.of(text)


def test_the_program_imports_nothing_of_ours() -> None:
    text = warm_line.program()[8:].decode()
    assert len(text.encode()) == int(warm_line.program()[:8])
    compile(text, "sandbox", "exec")
    assert "import worker_agent" not in text
    assert "from worker_agent" not in text
