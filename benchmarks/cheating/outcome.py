"""What a history comes to: the figures, exact for a seed, and what they are to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.cheating.nodes import Kind
from benchmarks.cheating.stage import History, Tally

AIM_WRONG, AIM_EXTRA = 0.001, 0.1


def figures(history: History) -> dict[str, Any]:
    """Shares of the whole time, the start included, and of its second half, when most nodes are known.

    - wrong_accepted_share: wrong ones among the results that stand for good.
    - wrong_delivered_share: wrong ones among the first results that users were shown, pending ones too.
    - extra_work_share: runs of tasks that were run before (checks, votes, recalled), to tasks begun.
    - earned_per_node: CPT, one for a paid run. profit_per_node: less half a CPT for each run really done.
    - false_share_of_paid: false ones among the runs that a kind was paid for.
    """
    half = history.tallies[len(history.tallies) // 2 :]
    kinds = list(history.earned[-1])
    return {
        **shares(history.tallies),
        "second_half": shares(half),
        "earned_per_node": {kind.value: _rounded(history.earned[-1][kind]) for kind in kinds},
        "profit_per_node": {kind.value: _rounded(history.profit[kind]) for kind in kinds},
        "false_share_of_paid": {kind.value: _false_share(history, kind) for kind in kinds},
        "accepted": sum(tally.accepted for tally in history.tallies),
        "begun": sum(tally.fresh for tally in history.tallies),
        "extra_runs": sum(tally.extra for tally in history.tallies),
        "recalled": sum(tally.recalled for tally in history.tallies),
        "undecided": sum(tally.undecided for tally in history.tallies),
    }


def shares(tallies: Sequence[Tally]) -> dict[str, float]:
    accepted = sum(tally.accepted for tally in tallies)
    delivered = sum(tally.delivered for tally in tallies)
    return {
        "wrong_accepted_share": _share(sum(tally.wrong_accepted for tally in tallies), accepted),
        "wrong_delivered_share": _share(sum(tally.wrong_delivered for tally in tallies), delivered),
        "extra_work_share": _share(
            sum(tally.extra for tally in tallies), sum(tally.fresh for tally in tallies)
        ),
    }


def _false_share(history: History, kind: Kind) -> float:
    there = [node for node in history.nodes if node.kind is kind]
    return _share(sum(node.earned_by_lies for node in there), sum(node.earned for node in there))


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _rounded(amount: float) -> float:
    return round(amount, 2)


def meets_aims(ours: dict[str, Any]) -> list[str]:
    """What is missed, in words; none: all aims are met."""
    missed = []
    late = ours["second_half"]
    if late["wrong_accepted_share"] > AIM_WRONG:
        missed.append(f"wrong results accepted: {late['wrong_accepted_share']:.3%}, aim {AIM_WRONG:.1%}")
    if late["extra_work_share"] > AIM_EXTRA:
        missed.append(f"extra work: {late['extra_work_share']:.1%}, aim {AIM_EXTRA:.0%}")
    for what in ("earned_per_node", "profit_per_node"):
        honest = ours[what][Kind.HONEST.value]
        missed += [
            f"{what} of {kind}: {amount:.0f}, of an honest one {honest:.0f}"
            for kind, amount in ours[what].items()
            if kind != Kind.HONEST.value and amount >= honest
        ]
    return missed
