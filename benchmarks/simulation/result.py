"""What a simulation found: beside the aims, and as one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import machine
from benchmarks.simulation.ageing import AgeingResult
from benchmarks.simulation.brim import Brim
from benchmarks.simulation.celery_flow import Flow
from benchmarks.simulation.checks import Violations
from benchmarks.simulation.engine import Engine, Placing
from benchmarks.simulation.life import Life
from benchmarks.simulation.packing import Packing
from benchmarks.simulation.reports import Reports

PLACEMENTS_PER_S, DECISION_P99_MS, COST_RATIO = 10_000, 5.0, 4.0
CELERY_RATIO, SWEEP_SHARE, PACKING_RATIO = 0.5, 0.25, 0.95
AIM_NODES = 10_000
BOUND = "fractional relaxation by resource, mean over the scarce ones"


@dataclass(slots=True)
class Result:
    nodes: int
    tasks: int
    seed: int
    users: int
    engines: list[Engine] = field(default_factory=list)
    packing: Packing | None = None
    life: Life | None = None
    ageing: AgeingResult | None = None
    flow: Flow | None = None
    reports: Reports | None = None
    brims: list[Brim] = field(default_factory=list)
    violations: Violations = field(default_factory=Violations)
    seconds: float = 0.0
    load: tuple[float, float] = (0.0, 0.0)  # processes that wanted to run: at the start and at the end
    failed: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Engine | None:
        """That of the size that was asked for."""
        return next((engine for engine in self.engines if engine.nodes == self.nodes), None)

    @property
    def cost_ratio(self) -> float | None:
        """Cost of a placement with its reservation at 100,000 nodes over that at 10,000."""
        cost = {engine.nodes: engine.reserving.microseconds_each for engine in self.engines}
        small, large = cost.get(AIM_NODES), cost.get(10 * AIM_NODES)
        return large / small if small and large else None

    @property
    def brim_ratio(self) -> float | None:
        """How full two dispatchers make the fleet, beside one."""
        if len(self.brims) < 2:
            return None
        return self.brims[-1].packing.share / self.brims[0].packing.share

    def aims(self) -> Iterator[tuple[str, float, str, bool]]:
        """Name, value, aim, whether it is met."""
        for engine in self.engines:
            if engine.nodes == AIM_NODES:
                rate, p99 = engine.reserving.per_second, engine.single.reserved.p99
                yield "placements/s, 10,000 nodes", rate, ">= 10,000", rate >= PLACEMENTS_PER_S
                yield "p99 of one decision, ms, 10,000 nodes", p99, "< 5", p99 < DECISION_P99_MS
        if (ratio := self.cost_ratio) is not None:
            yield "cost at 100,000 nodes over 10,000", ratio, "<= 4", ratio <= COST_RATIO
        if self.flow is not None:
            yield (
                "through Celery over bare Celery",
                self.flow.ratio,
                ">= 0.5",
                self.flow.ratio >= CELERY_RATIO,
            )
        if self.reports is not None:
            share, worst = self.reports.sweep_cpu_share, self.reports.detection_worst
            yield "sweep, share of a core", share, "< 0.25", share < SWEEP_SHARE
            bound = self.reports.detection_bound
            yield "a lost node is known after, s", worst, f"<= {bound:g}", worst <= bound
        if (packed := self.brim_ratio) is not None:
            yield "packing of two dispatchers over one", packed, ">= 0.95", packed >= PACKING_RATIO
        yield "violations", self.violations.total(), "0", not self.violations.total()

    def as_object(self) -> dict[str, Any]:
        engine, reports = self.engine, self.reports
        packing = self.brims[0].packing if self.brims else self.packing
        single = engine.single if engine else None
        return {
            "nodes": self.nodes,
            "tasks": self.tasks,
            "placements_per_s": engine and engine.reserving.per_second,
            "placements_per_s_with_sql": engine and engine.whole.per_second,
            "decision_p50_ms": single and single.reserved.median,
            "decision_p99_ms": single and single.reserved.p99,
            "sweep_cpu_share": reports and reports.sweep_cpu_share,
            "redis_cpu_share": reports and reports.redis_cpu_share,
            "packing_share": packing and packing.share,
            "packing_bound": BOUND,
            "violations": self.violations.total(),
            "violation_kinds": dict(self.violations.counts),
            "violation_examples": self.violations.examples,
            "detection_s": reports and reports.detection_worst,
            "celery_ratio": self.flow and self.flow.ratio,
            "cost_ratio_100000_to_10000": self.cost_ratio,
            "brim_packing_ratio": self.brim_ratio,
            "aims": [
                {"what": what, "value": value, "aim": aim, "met": met}
                for what, value, aim, met in self.aims()
            ],
            "failed": self.failed,
            "seed": self.seed,
            "users": self.users,
            "seconds": self.seconds,
            "machine": machine(),
            "load": self.load,
            "engine": [_plain(one) for one in self.engines],
            "engine_packing": _plain(self.packing),
            "life": _plain(self.life),
            "ageing": _plain(self.ageing),
            "celery": _plain(self.flow),
            "reports": _plain(reports),
            "brim": [_plain(one) for one in self.brims],
        }


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; of placing also the rate."""
    if isinstance(value, Violations):
        return value.total()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {**plain, "per_second": value.per_second} if isinstance(value, Placing) else plain
    return value
