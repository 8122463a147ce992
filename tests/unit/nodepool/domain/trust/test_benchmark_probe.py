"""Probes as pure values: what they compute, what an answer must be, and what an end says of a node."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.trust.benchmark_probe import (
    CHECKED_SEGMENTS,
    DEFAULT_RUN_MEMORY_BYTES,
    MOST_CHAINS,
    SEGMENTS,
    SLOW_FACTOR,
    SLOW_TIMES,
    Belief,
    Judged,
    Probe,
    ProbeVerdict,
    answer_of,
    chains_of,
    is_slow,
    judge,
    ran_in_container,
    shown_score,
)
from tests.support.tasks import package
from worker_agent.execution import memory_bytes

PROBE = Probe.of("a-seed", work=1, chains=3)
EVERYWHERE = [(index + 0.5) / (3 * SEGMENTS) for index in range(3 * SEGMENTS)]
CLAIM = Belief(claimed=4000)


def run(probe: Probe, folder: Path) -> bytes:
    """As a node runs it."""
    (folder / "main.py").write_text(probe.source())
    subprocess.run([sys.executable, "main.py"], cwd=folder, check=True)
    return (folder / probe.answer_file).read_bytes()


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return run(PROBE, tmp_path_factory.mktemp("probe"))


def test_an_honest_answer_holds_everywhere(answer: bytes) -> None:
    assert PROBE.is_right(answer, EVERYWHERE)


def test_what_it_saw_cannot_be_changed_afterwards(answer: bytes) -> None:
    memory, rest = answer.split(b",", 1)
    assert not any(PROBE.is_right(b"1" + memory + b"," + rest, [draw]) for draw in EVERYWHERE[::SEGMENTS])


def test_an_answer_from_no_container_shows_none(answer: bytes) -> None:
    assert not ran_in_container(answer, DEFAULT_RUN_MEMORY_BYTES)


GOOD = ["536870912", "1", "1", "0000000000000000", "0000000000000000", "True"]


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_mark_of_a_container_counts(at: int) -> None:
    assert ran_in_container((",".join(GOOD) + "\n").encode(), DEFAULT_RUN_MEMORY_BYTES)
    for other in ("", "max", "0", "3", "00000000a80425fb"):
        words = [other if index == at else word for index, word in enumerate(GOOD)]
        if (words != GOOD and set(other) != {"0"}) or at < 3:
            assert not ran_in_container(",".join(words).encode(), DEFAULT_RUN_MEMORY_BYTES)


def test_a_run_that_asks_for_no_memory_has_what_the_pool_expects() -> None:
    assert memory_bytes(0) == DEFAULT_RUN_MEMORY_BYTES


def test_an_answer_to_another_seed_is_wrong(answer: bytes) -> None:
    other = Probe.of("another-seed", work=1, chains=3)
    assert not any(other.is_right(answer, [draw]) for draw in EVERYWHERE)


def test_an_answer_with_fewer_rounds_is_wrong(answer: bytes, tmp_path: Path) -> None:
    assert PROBE.rounds > 1
    cheap = run(Probe(seed=PROBE.seed, chains=3, rounds=PROBE.rounds - 1), tmp_path)
    assert not any(PROBE.is_right(cheap, [draw]) for draw in EVERYWHERE)


def test_who_makes_up_what_he_leaves_out_is_wrong_at_each_of_those_borders(answer: bytes) -> None:
    seen, *lines = answer.decode().splitlines()
    chains = [line.split(" ") for line in lines]
    left_out = set(range(0, SEGMENTS, 2))
    made_up = [[("0" * 32 if at in left_out else word) for at, word in enumerate(words)] for words in chains]
    text = (seen + "\n" + "".join(" ".join(words) + "\n" for words in made_up)).encode()
    caught = sum(not PROBE.is_right(text, [draw]) for draw in EVERYWHERE)
    assert caught >= len(left_out) * 3


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"\n", b"hello", b"00", b"\xff\xfe", b"zz " * 10, b"0" * 10**6, b"00 11\n22", "½".encode()],
)
def test_nonsense_is_wrong(nonsense: bytes) -> None:
    assert not PROBE.is_right(nonsense, [0.0])


@given(st.binary(max_size=400), st.lists(st.floats(0, 1, exclude_max=True), max_size=4))
def test_no_answer_of_a_stranger_breaks_the_pool(data: bytes, draws: list[float]) -> None:
    assert not PROBE.is_right(data, draws)
    assert answer_of(BytesIO(data), "answer.txt") == b""
    assert not ran_in_container(data, 1)


def test_an_answer_is_found_in_a_result_and_bounded() -> None:
    assert answer_of(BytesIO(package({"answer.txt": "x"})), "answer.txt") == b"x"
    assert answer_of(BytesIO(package({"other.txt": "x"})), "answer.txt") == b""
    assert answer_of(BytesIO(package({"answer.txt": b"0" * (2 << 20)})), "answer.txt") == b""


def test_the_work_is_that_of_all_cores_together() -> None:
    one, four = Probe.of("s", work=4000, chains=1), Probe.of("s", work=4000, chains=4)
    assert one.rounds == pytest.approx(4 * four.rounds, rel=0.01)
    assert chains_of(0) == 1
    assert chains_of(10_000) == MOST_CHAINS
    assert Probe.of("s", work=0, chains=1).rounds == 1


def test_whoever_does_a_tenth_of_the_work_is_caught() -> None:
    assert 0.1**CHECKED_SEGMENTS < 2e-4


# -- what it says -------------------------------------------------------------------------------------------
def test_starting_and_sending_are_not_counted_against_a_node() -> None:
    assert not is_slow(4000, 4.5, 4000)
    assert is_slow(4000, 12.0, 4000)
    assert shown_score(4000, 12.0) == 400


def after(belief: Belief, *ends: tuple[ProbeVerdict, float]) -> Judged:
    judged = Judged(belief=belief)
    for verdict, seconds in ends:
        belief = judged.belief
        work = belief.score * belief.seconds
        judged = judge(belief, verdict, work=work, seconds=seconds)
    return judged


def test_one_slow_probe_is_an_accident_and_three_are_a_false_claim() -> None:
    slow = (ProbeVerdict.SLOW, 12.0)
    for times in range(1, SLOW_TIMES):
        judged = after(CLAIM, *[slow] * times)
        assert (judged.belief.score, judged.false_claim) == (4000, False)
    judged = after(CLAIM, *[slow] * SLOW_TIMES)
    assert judged.false_claim
    # Ten times slower than claimed, and with the benefit of the doubt.
    assert judged.belief == Belief(claimed=4000, measured=400)


def test_a_right_answer_in_time_in_between_begins_the_count_anew() -> None:
    slow, right = (ProbeVerdict.SLOW, 12.0), (ProbeVerdict.RIGHT, 1.5)
    judged = after(CLAIM, slow, slow, right, slow, slow)
    assert (judged.belief.score, judged.false_claim) == (4000, False)


def test_a_false_claim_is_told_once() -> None:
    corrected = Belief(claimed=4000, measured=400)
    judged = after(corrected, *[(ProbeVerdict.SLOW, 60.0)] * SLOW_TIMES)
    assert not judged.false_claim
    assert judged.belief.score < 400


def test_a_node_that_shows_more_is_believed_more_until_its_claim_is() -> None:
    quick = (ProbeVerdict.RIGHT, 1.0)
    belief = Belief(claimed=4000, measured=1500)
    assert after(belief, quick).belief == Belief(claimed=4000, measured=3000)
    assert after(belief, quick, quick).belief == Belief(claimed=4000)
    # As fast as it is believed to be: it stays so.
    assert after(belief, (ProbeVerdict.RIGHT, 4.5)).belief == belief


def test_a_claim_that_was_lowered_is_the_score() -> None:
    assert Belief(claimed=300, measured=400).score == 300


@pytest.mark.parametrize("verdict", [ProbeVerdict.WRONG, ProbeVerdict.SILENT, ProbeVerdict.WITHDRAWN])
def test_other_ends_say_nothing_of_the_speed(verdict: ProbeVerdict) -> None:
    assert after(CLAIM, *[(verdict, 100.0)] * 10) == Judged(belief=CLAIM)


def test_a_node_that_never_answers_where_others_do_is_believed_less_and_not_blamed() -> None:
    belief = CLAIM
    for _ in range(SLOW_TIMES):
        judged = judge(belief, ProbeVerdict.SILENT, work=4000, seconds=0.2, others_answer=True)
        assert not judged.false_claim
        belief = judged.belief
    assert belief.score == int(4000 / SLOW_FACTOR)


@given(
    st.integers(1, 10**7),
    st.lists(st.tuples(st.sampled_from(list(ProbeVerdict)), st.floats(0, 200)), max_size=30),
)
def test_no_row_of_probes_takes_the_score_out_of_its_bounds(
    claimed: int, ends: list[tuple[ProbeVerdict, float]]
) -> None:
    judged = after(Belief(claimed=claimed), *ends)
    assert 1 <= judged.belief.score <= claimed
