"""`python -m benchmarks.attacks [--only WORDS] [--json]`: what attacks cost the pool and its other users.

A pool of `hivemind up` is attacked by one ordinary account, or by nobody that it knows, from 127.0.0.1;
another user asks for the balance from 127.0.0.2 all the while. Shown are the largest memory of each part,
the slowest answer that the other user got, and how the attackers' calls ended. The aims: under 512 MiB,
under a second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import secrets
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.attacks.kinds import ATTACKS, carry_out
from benchmarks.attacks.memory import Peaks
from benchmarks.attacks.target import Target
from benchmarks.attacks.victim import Seen, live
from benchmarks.figures import machine
from benchmarks.pool import Pool, stop_on_signals
from hivemind import NodePoolClient

AIM_MIB = 512
AIM_SECONDS = 1.0
ATTACK_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    attack: str
    peak_mib: dict[str, float]
    seen: Seen
    calls: dict[str, int]

    @property
    def held(self) -> bool:
        return (
            max(self.peak_mib.values(), default=AIM_MIB) < AIM_MIB and self.seen.slowest_seconds < AIM_SECONDS
        )


def main() -> int:
    given = _arguments()
    stop_on_signals()
    wanted = [name for name in ATTACKS if given.only in name]
    outcomes = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="hivemind-bench-") as folder:
            Path(folder).chmod(0o711)
            outcomes.append(_attacked(name, Path(folder)))
            print(f"{name}: {_words(outcomes[-1])}", file=sys.stderr)
    if given.json:
        print(
            json.dumps({"machine": machine(), "attacks": [asdict(outcome) for outcome in outcomes]}, indent=2)
        )
    else:
        _show(outcomes)
    return 0 if outcomes and all(outcome.held for outcome in outcomes) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--only", default="", help="attacks with these words in their name")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


def _attacked(name: str, folder: Path) -> AttackOutcome:
    """One attack on a new pool."""
    with Pool(folder / "pool", agents=1, runner="process", flower=True) as pool:
        attacker, victim = _account(pool, "mallory"), _account(pool, "vera")
        ours, theirs = SPAWN.Pipe()
        watching = SPAWN.Process(
            target=live, args=(pool.address, victim.username, victim.token, theirs), daemon=True
        )
        watching.start()
        try:
            if not ours.poll(PATIENCE_SECONDS):
                raise SystemExit("the other user got no answer before any attack")
            ours.recv()
            with Peaks(pool.processes) as peaks:
                calls = _carry_out(name, attacker)
            ours.send(None)
            seen = (
                ours.recv()
                if ours.poll(PATIENCE_SECONDS)
                else Seen(answers=0, slowest_seconds=PATIENCE_SECONDS, refused=1)
            )
        finally:
            watching.terminate()
            watching.join()
        return AttackOutcome(
            name, {part: round(size, 1) for part, size in peaks.mib.items()}, seen, dict(calls)
        )


def _account(pool: Pool, username: str) -> Target:
    password = secrets.token_urlsafe(16)
    with NodePoolClient(pool.address) as client:
        client.register(username, password)
        client.login(username, password)
        return Target(
            address=pool.address,
            username=username,
            password=password,
            token=client.token,
            seconds=ATTACK_SECONDS,
        )


def _carry_out(name: str, target: Target) -> Counter[str]:
    """In a process of its own, whose memory and whose lock are not the pool's."""
    ours, theirs = SPAWN.Pipe()
    attack = SPAWN.Process(target=carry_out, args=(name, target, theirs), daemon=True)
    attack.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(ATTACK_SECONDS + PATIENCE_SECONDS) else Counter({"not over": 1})
    except EOFError:
        return Counter({"died": 1})
    finally:
        attack.terminate()
        attack.join()


def _words(outcome: AttackOutcome) -> str:
    parts = ", ".join(f"{name} {size:.0f} MiB" for name, size in sorted(outcome.peak_mib.items()))
    calls = ", ".join(f"{number} {name}" for name, number in sorted(outcome.calls.items()))
    return f"{parts}; slowest answer {outcome.seen.slowest_seconds:.2f} s; {calls}"


def _show(outcomes: list[AttackOutcome]) -> None:
    facts = machine()
    console = Console(width=max(140, Console().width))
    console.print(f"\n{facts['processor']}, {facts['cores']} cores, Python {facts['python']}")
    table = Table(title=f"aims: every part under {AIM_MIB} MiB, others answered within {AIM_SECONDS:g} s")
    parts = ("gateway", "Flower", "dispatcher", "Valkey", "agent")
    for column in ("attack", *(f"{part} MiB" for part in parts), "slowest s", "calls ended", "held"):
        table.add_column(column)
    for outcome in outcomes:
        sizes = [f"{outcome.peak_mib.get(part, 0):.0f}" for part in parts]
        calls = ", ".join(f"{number} {name}" for name, number in sorted(outcome.calls.items()))
        slowest = f"{outcome.seen.slowest_seconds:.2f}"
        table.add_row(outcome.attack, *sizes, slowest, calls, "yes" if outcome.held else "[red]no")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
