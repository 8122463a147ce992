"""`python -m benchmarks.cheaters`: honest and dishonest nodes under our rule and under BOINC's.

Seeded and exact: the same seed gives the same JSON. Nothing is started and nothing is timed; what decides
is `domain.trust.audits` and `domain.trust.voting`, with the pool around them in rounds of five minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cheating.boinc import Boinc
from benchmarks.cheating.nodes import Kind, Scene
from benchmarks.cheating.ours import Ours
from benchmarks.cheating.outcome import figures, meets_aims
from benchmarks.cheating.picture import plot
from benchmarks.cheating.stage import History, play


def compare(scene: Scene, seed: int) -> tuple[dict[str, Any], dict[str, History]]:
    """Both rules on the same nodes and the same tasks."""
    histories = {policy.name: play(scene, seed, policy) for policy in (Ours, Boinc)}
    report: dict[str, Any] = {
        "seed": seed,
        "rounds": scene.rounds,
        "nodes": {kind.value: scene.count(kind) for kind in Kind},
        **{name: figures(history) for name, history in histories.items()},
    }
    report["missed"] = meets_aims(report["ours"])
    return report, histories


def main() -> int:
    given = _arguments()
    scene = Scene(rounds=given.rounds, patience=given.patience)
    if given.whitewash:
        # Caught once, and back within an hour under another account.
        scene = replace(scene, comeback_strikes=1, comeback_rounds=12)
    report, histories = compare(scene, given.seed)
    if given.plot:
        plot(given.plot, scene, given.seed, histories)
    if given.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 1 if report["missed"] else 0


def _show(report: dict[str, Any]) -> None:
    ours, boinc = report["ours"], report["boinc"]
    print(f"seed {report['seed']}, {report['rounds']} rounds; share of all, (of the second half)")
    print(f"{'':24}{'ours':>22}{'BOINC':>22}")
    for name in ("wrong_accepted_share", "wrong_delivered_share", "extra_work_share"):
        cells = [f"{rule[name]:.3%} ({rule['second_half'][name]:.3%})" for rule in (ours, boinc)]
        print(f"{name.removesuffix('_share'):24}{cells[0]:>22}{cells[1]:>22}")
    print("\nearned, profit, false share of what is paid")
    for kind in ours["earned_per_node"]:
        cells = [
            f"{rule['earned_per_node'][kind]:.0f} {rule['profit_per_node'][kind]:6.0f} "
            f"{rule['false_share_of_paid'][kind]:8.2%}"
            for rule in (ours, boinc)
        ]
        print(f"{kind:10} x {report['nodes'][kind]:<11}{cells[0]:>22}{cells[1]:>22}")
    print("\n" + ("\n".join(f"missed: {line}" for line in report["missed"]) or "all aims are met"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cheaters", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=Scene().rounds, help="of five minutes")
    parser.add_argument(
        "--whitewash",
        action="store_true",
        help="cheaters come back under a new account an hour after a catch",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="under our rule cheaters lie only once one of N of their results is checked",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON, the same for the same seed")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="both rules over time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
