"""The simulation of dishonest nodes: its figures are exact for a seed, and hold what the product promises."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.cheaters import compare
from benchmarks.cheating.nodes import RIGHT, Answers, Kind, Node, Owner, Scene, population
from benchmarks.cheating.ours import Ours
from benchmarks.cheating.outcome import AIM_EXTRA, AIM_WRONG, figures
from benchmarks.cheating.stage import History, play
from nodepool.domain.trust import audits as verification
from tests.support.environment import LONG

SMALL = Scene(rounds=450, honest=16, lazy=1, lying=1, on_off=2, sneaky=1, colluding=4, idler=1, sock_puppet=2)
if LONG:
    SMALL = replace(
        SMALL, honest=24, lazy=2, lying=2, on_off=3, sneaky=2, colluding=5, idler=2, sock_puppet=4
    )
ALL_HONEST = Scene(
    rounds=500, honest=12, lazy=0, lying=0, on_off=0, sneaky=0, colluding=0, idler=0, sock_puppet=0
)


@pytest.fixture(scope="module")
def compared() -> tuple[dict[str, Any], dict[str, History]]:
    return compare(SMALL, seed=5)


@pytest.fixture(scope="module")
def report(compared: tuple[dict[str, Any], dict[str, History]]) -> dict[str, Any]:
    return compared[0]


def test_our_rule_keeps_to_its_aims(report: dict[str, Any]) -> None:
    late = report["ours"]["second_half"]
    assert late["wrong_accepted_share"] <= AIM_WRONG
    assert late["extra_work_share"] <= AIM_EXTRA
    assert report["missed"] == []


@pytest.mark.parametrize("what", ["earned_per_node", "profit_per_node"])
def test_every_dishonest_kind_earns_less_than_an_honest_one(report: dict[str, Any], what: str) -> None:
    amounts = dict(report["ours"][what])
    honest = amounts.pop(Kind.HONEST.value)
    assert set(amounts) == {kind.value for kind in Kind} - {Kind.HONEST.value}
    assert max(amounts.values()) < 0.6 * honest


def test_boincs_rule_lets_an_on_off_cheater_pass_with_nearly_half_his_results_false(
    report: dict[str, Any],
) -> None:
    assert 0.35 < report["boinc"]["false_share_of_paid"]["on_off"] < 0.55
    assert report["boinc"]["wrong_accepted_share"] > 20 * report["ours"]["wrong_accepted_share"]
    assert report["boinc"]["profit_per_node"]["on_off"] > report["boinc"]["profit_per_node"]["honest"]


def test_honest_nodes_alone_are_hardly_checked_and_all_paid() -> None:
    scene = replace(ALL_HONEST, honest_errors=0.0, late_joiners=0.0)
    history = play(scene, 1, Ours)
    result = figures(history)
    assert result["wrong_accepted_share"] == result["wrong_delivered_share"] == 0
    assert result["recalled"] == result["undecided"] == 0
    assert result["second_half"]["extra_work_share"] < 0.05
    assert all(node.owner.record.strikes == 0 for node in history.nodes)
    still_in_blocks = scene.nodes * 1 / verification.Rules().audit_share_least
    runs = result["begun"] + result["extra_runs"]
    assert sum(node.earned for node in history.nodes) > runs - still_in_blocks > 0.8 * runs


@pytest.mark.parametrize("policy", ["ours", "boinc"])
def test_no_task_is_lost_or_counted_twice(
    compared: tuple[dict[str, Any], dict[str, History]], policy: str
) -> None:
    history = compared[1][policy]
    result = figures(history)
    assert result["accepted"] <= result["begun"]
    assert result["accepted"] > 0.9 * result["begun"]
    runs = result["begun"] + result["extra_runs"]
    assert sum(node.earned for node in history.nodes) <= runs


def test_the_same_seed_gives_the_same_json_and_another_one_another() -> None:
    small = replace(SMALL, rounds=8)
    first, again, other = (json.dumps(compare(small, seed)[0]) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_command_prints_one_json_object_and_draws_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "cheaters.png"
    command = [sys.executable, "-m", "benchmarks.cheaters", "--seed", "7", "--rounds", "4", "--json"]
    done = subprocess.run([*command, "--plot", str(picture)], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    for rule in ("ours", "boinc"):
        assert {"wrong_accepted_share", "extra_work_share", "earned_per_node"} <= set(report[rule])
        assert set(report[rule]["earned_per_node"]) == {kind.value for kind in Kind}
    assert picture.read_bytes().startswith(b"\x89PNG")
    # Four rounds are not the long run: the exit code says whether the aims are met.
    assert done.returncode == bool(report["missed"])


def test_the_ring_has_one_owner_of_several_nodes_and_owners_of_one() -> None:
    owners = [node.owner.number for node in population(Scene(), Random(1)) if node.kind is Kind.COLLUDING]
    assert sorted(owners.count(owner) for owner in set(owners)) == [1] * 12 + [4]


def test_wrong_answers_differ_but_for_those_of_the_ring_and_of_the_lazy() -> None:
    answers = Answers(replace(SMALL, honest_errors=0.0), Random(1))

    def answer(kind: Kind, *, ring_lied: bool = False) -> int:
        return answers.of(Node(1, kind, Owner(1)), trusted=True, ring_lied=ring_lied)

    assert answer(Kind.HONEST) == RIGHT
    assert answer(Kind.LAZY) == answer(Kind.LAZY) != RIGHT
    assert answer(Kind.COLLUDING) == answer(Kind.COLLUDING, ring_lied=True) != RIGHT
    assert len({RIGHT, answer(Kind.LYING), answer(Kind.LYING), answer(Kind.ON_OFF)}) == 4


class BelievesFriends(Ours):
    """As if a check counted that only friends of each other could make."""

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.rules = replace(self.rules, audits=replace(self.rules.audits, least_owners=1))


def test_idlers_are_paid_nothing_and_friends_win_no_trust_by_agreeing() -> None:
    """Sock puppets live by what they really work for strangers, and are paid for no more lies than others."""
    # The longer it takes, the less there is in it for friends.
    rounds, most = (300, 0.3) if LONG else (200, 0.4)
    scene = replace(ALL_HONEST, rounds=rounds, honest=24, idler=2, sock_puppet=8)
    believed, ours = play(scene, 1, BelievesFriends), play(scene, 1, Ours)

    def lies_paid(history: Any) -> int:
        return sum(node.earned_by_lies for node in history.nodes if node.kind is Kind.SOCK_PUPPET)

    assert lies_paid(ours) < lies_paid(believed)
    assert figures(ours)["earned_per_node"]["idler"] == 0
    assert figures(ours)["earned_per_node"]["sock_puppet"] < most * figures(ours)["earned_per_node"]["honest"]
