"""The picture of both rules over time."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.cheating.nodes import ROUND_SECONDS, Kind, Scene
from benchmarks.cheating.outcome import AIM_EXTRA, AIM_WRONG, shares
from benchmarks.cheating.stage import History

_SECONDS_PER_DAY = 86400.0
_RULES = {"ours": ("ours", "#1b7837"), "boinc": ("BOINC", "#2166ac")}
_COLOURS = {
    Kind.HONEST: "#1b7837",
    Kind.LAZY: "#999999",
    Kind.LYING: "#000000",
    Kind.ON_OFF: "#d7301f",
    Kind.SNEAKY: "#e08214",
    Kind.COLLUDING: "#6a51a3",
    Kind.IDLER: "#8c510a",
    Kind.SOCK_PUPPET: "#c51b7d",
}


def plot(path: Path, scene: Scene, seed: int, histories: dict[str, History]) -> None:
    mpl.use("Agg")
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
    figure.suptitle(f"{scene.nodes} nodes, {scene.nodes - scene.honest} of them dishonest, seed {seed}")
    _wrong(axes[0][0], histories)
    _extra(axes[0][1], histories)
    most = max(max(per_kind.values()) for history in histories.values() for per_kind in history.earned)
    for axis, (name, (label, _)) in zip(axes[1], _RULES.items(), strict=True):
        _earned(axis, histories[name], label, most)
    for axis in axes.flat:
        axis.set_xlabel(f"days (windows of {_days(histories['ours'])[0] * 24:.1f} hours)")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _wrong(axis: Axes, histories: dict[str, History]) -> None:
    for name, (label, colour) in _RULES.items():
        history = histories[name]
        accepted = [_shown(shares([tally])["wrong_accepted_share"]) for tally in history.tallies]
        axis.plot(_days(history), accepted, color=colour, label=f"{label}: accepted")
    ours = histories["ours"]
    first = [_shown(shares([tally])["wrong_delivered_share"]) for tally in ours.tallies]
    axis.plot(
        _days(ours), first, color=_RULES["ours"][1], alpha=0.6, linestyle=":", label="ours: shown as pending"
    )
    axis.axhline(100 * AIM_WRONG, color="black", linewidth=0.8, linestyle="--", label="aim")
    axis.set(yscale="log", ylim=(0.004, 100), ylabel="wrong, % of a window", title="Wrong results")
    axis.legend(fontsize="small", loc="upper right", ncols=2)


def _extra(axis: Axes, histories: dict[str, History]) -> None:
    for name, (label, colour) in _RULES.items():
        history = histories[name]
        extra = [100 * shares([tally])["extra_work_share"] for tally in history.tallies]
        axis.plot(_days(history), extra, color=colour, label=label)
    axis.axhline(100 * AIM_EXTRA, color="black", linewidth=0.8, linestyle="--", label="aim")
    axis.set(ylim=(0, 60), ylabel="extra runs, % of tasks begun", title="Extra work")
    axis.legend(fontsize="small", loc="upper right")


def _earned(axis: Axes, history: History, label: str, most: float) -> None:
    for kind in history.earned[-1]:
        amounts = [per_kind[kind] for per_kind in history.earned]
        axis.plot(_days(history), amounts, color=_COLOURS[kind], label=kind.value.replace("_", "-"))
    axis.set(ylabel="CPT", ylim=(-0.02 * most, 1.05 * most), title=f"Earned per node, {label}")
    axis.legend(fontsize="small", loc="upper left")


def _days(history: History) -> list[float]:
    step = history.window_rounds * ROUND_SECONDS / _SECONDS_PER_DAY
    return [step * (index + 1) for index in range(len(history.tallies))]


def _shown(share: float) -> float:
    """A logarithmic scale has no zero: none at all lies near its lower edge."""
    return max(100 * share, 0.005)
