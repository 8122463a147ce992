"""What goes wrong, when and for how long: decided by the seed, and by nothing else. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.history import NOTICED_SECONDS

# Before the first fault the pool shows what it does without any.
REFERENCE_SECONDS = 15.0
# Between two: 5 s in which it has to begin again, and some in which its pace is measured.
CALM_SECONDS = 14.0


class Need(StrEnum):
    """What a kind cannot do without."""

    ROOT = "root"
    POSTGRES = "postgres"
    SENTINEL = "sentinel"
    PROXIES = "proxies"  # on the lines to the broker: not where sentinels name its address
    FAKETIME = "faketime"
    ONE_BROKER = "one broker"


PARTS = ("gateway", "dispatcher", "agent", "broker", "database", "pool")
BROKER_LINES = ("agents-broker", "gateway-broker", "dispatcher-broker")
GATEWAY_LINES = ("client-gateway", "agents-gateway")
DATABASE_LINES = ("gateway-database", "dispatcher-database")
LINES = (*GATEWAY_LINES, *BROKER_LINES, *DATABASE_LINES)
KEYS = ("reservations", "reports", "assignments", "facts", "windows", "queues")
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to break something: parts of which one is drawn, and ranges from which the rest is."""

    name: str
    parts: tuple[str, ...]
    seconds: Range = (0.0, 0.0)
    parameters: Mapping[str, Range] = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()
    # How long it goes on at least, by the pool's own promise, though nothing more is done to it.
    lasts: float = 0.0


_LINE = {"parts": LINES, "seconds": (3.0, 9.0)}
KINDS = (
    Kind("kill", PARTS, (0.0, 5.0)),
    Kind("stop", PARTS, (2.0, 9.0)),
    Kind("kill-ending", ("agent",), (0.0, 2.0)),
    Kind("reset", LINES),
    Kind("refused", **_LINE),
    Kind("frozen", **_LINE),
    Kind("black-hole", **_LINE, lasts=NOTICED_SECONDS),
    Kind("one-way", **_LINE, parameters={"answers": (0.0, 1.0)}, lasts=NOTICED_SECONDS),
    Kind("dead", LINES, lasts=NOTICED_SECONDS),
    Kind("delay", LINES, (6.0, 10.0), {"milliseconds": (50.0, 300.0), "jitter": (0.0, 50.0)}),
    Kind("narrow", LINES, (6.0, 10.0), {"bytes_per_second": (4_000.0, 40_000.0)}),
    Kind("flushall", ("broker",)),
    Kind("keys", KEYS),
    Kind("doubled", ("hints",), (3.0, 6.0)),
    Kind("dropped", ("hints",), (3.0, 6.0)),
    Kind("full-disk", ("storage", "agent"), (4.0, 8.0), needs=frozenset({Need.ROOT})),
    Kind("full-broker", ("broker",), (4.0, 8.0), needs=frozenset({Need.ONE_BROKER})),
    Kind("sessions-ended", ("database",), needs=frozenset({Need.POSTGRES})),
    Kind("no-connections", ("database",), (4.0, 8.0), needs=frozenset({Need.POSTGRES})),
    Kind("failover", ("broker",), needs=frozenset({Need.SENTINEL})),
    Kind(
        "clock", ("gateway", "dispatcher", "agent", "broker"), (6.0, 10.0), {"jump": (0.0, 3.0)},
        needs=frozenset({Need.FAKETIME}),
    ),
)  # fmt: skip
# Seconds by which a clock jumps.
JUMPS = (1200.0, -1200.0, 3600.0)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    kind: str
    part: str
    seconds: float
    parameters: Mapping[str, float]
    lasts: float
    # At the same moment as the one before it.
    together: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind} {self.part}"

    def __str__(self) -> str:
        words = "".join(f", {name} {value:.3g}" for name, value in self.parameters.items())
        return f"{self.name} for {self.seconds:.1f} s{words}{' (with the one before)' * self.together}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    faults: tuple[PlannedFault, ...]
    calm_seconds: float = CALM_SECONDS

    @property
    def seconds(self) -> float:
        alone = [fault for fault in self.faults if not fault.together]
        return REFERENCE_SECONDS + sum(it.seconds + it.lasts + self.calm_seconds for it in alone)


def make_plan(
    seed: int,
    seconds: float,
    wanted: Sequence[str] = (),
    have: Iterable[Need] = (),
    *,
    several: bool = False,
    calm_seconds: float = CALM_SECONDS,
    applies: Callable[[str, str], bool] = lambda _kind, _part: True,
) -> Plan:
    """As many faults as fit into the time; every pair of kind and part once before one comes again.

    `wanted`: names of kinds, or kind:part; all where there are none. `several`: some come two at a time.
    `applies`: what there is to break at all.
    """
    deck = [(kind, part) for kind, part in _deck(wanted, frozenset(have)) if applies(kind.name, part)]
    if not deck:
        raise ValueError("none of these faults can be made here")
    dice = random.Random(seed)
    left = seconds - REFERENCE_SECONDS
    faults: list[PlannedFault] = []
    for kind, part in _shuffled(deck, dice):
        together = several and bool(faults) and not faults[-1].together and dice.random() < 0.25
        fault = _drawn(kind, part, dice, together=together)
        left -= 0.0 if together else fault.seconds + fault.lasts + calm_seconds
        if left < 0 and faults:
            break
        faults.append(fault)
    return Plan(seed, tuple(faults), calm_seconds)


def _deck(wanted: Sequence[str], have: frozenset[Need]) -> list[tuple[Kind, str]]:
    pairs = [(kind, part) for kind in KINDS for part in kind.parts]
    unknown = set(wanted) - {kind.name for kind, _ in pairs} - {f"{kind.name}:{part}" for kind, part in pairs}
    if unknown:
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; --list tells all")
    return [
        (kind, part)
        for kind, part in pairs
        if not wanted or kind.name in wanted or f"{kind.name}:{part}" in wanted
        if needs(kind, part) <= have
    ]


def needs(kind: Kind, part: str) -> frozenset[Need]:
    more = set(kind.needs)
    if part == "database" or part in DATABASE_LINES:
        more.add(Need.POSTGRES)
    if part in BROKER_LINES:
        more.add(Need.PROXIES)
    if part in ("broker", "pool") and kind.name in ("kill", "stop", "clock"):
        more.add(Need.ONE_BROKER)
    return frozenset(more)


def _shuffled(deck: list[tuple[Kind, str]], dice: random.Random) -> Iterator[tuple[Kind, str]]:
    while True:
        yield from dice.sample(deck, len(deck))


def _drawn(kind: Kind, part: str, dice: random.Random, *, together: bool) -> PlannedFault:
    parameters = {name: dice.uniform(*bounds) for name, bounds in kind.parameters.items()}
    # Of several that are alike.
    parameters["which"] = dice.random()
    return PlannedFault(kind.name, part, dice.uniform(*kind.seconds), parameters, kind.lasts, together)
