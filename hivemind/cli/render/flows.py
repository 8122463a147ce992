"""How a flow looks before it is sent: its steps in their order, where each would run now, and the price.

Knows rich; knows neither the connection nor click.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable
from hivemind.explanation import Explanation
from hivemind.flows import FlowStep, TaskFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotedStep:
    """A step with what the pool says of one task of it."""

    step: FlowStep
    told: Explanation
    package_bytes: int

    @property
    def most_cpt(self) -> int:
        """That all of its tasks can cost."""
        return self.told.max_price_cpt * self.step.tasks

    @property
    def where(self) -> str:
        if self.told.places_now:
            return f"now, on {self.told.best_node}" if self.told.best_node else "now"
        return self.told.message or "would wait"


def flow_json(flow: TaskFlow, steps: Sequence[QuotedStep]) -> dict[str, Any]:
    return {
        "name": flow.name,
        "tasks": flow.tasks,
        "most_cpt": sum(step.most_cpt for step in steps),
        "steps": [
            {
                "name": each.step.name,
                "path": str(each.step.source),
                "needs": each.step.needs,
                "needs_any": each.step.needs_any,
                "tasks": each.step.tasks,
                "package_bytes": each.package_bytes,
                "most_cpt": each.most_cpt,
                "explanation": jsonable(each.told),
            }
            for each in steps
        ],
    }


def flow_view(flow: TaskFlow, steps: Sequence[QuotedStep]) -> Group:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("STEP", overflow="fold")
    table.add_column("AFTER", overflow="fold")
    table.add_column("TASKS", justify="right", no_wrap=True)
    table.add_column("CPT", justify="right", no_wrap=True)
    table.add_column("ONE OF ITS TASKS WOULD RUN", overflow="fold")
    for each in steps:
        after = [*each.step.needs, *(f"{name} (any end)" for name in each.step.needs_any)]
        table.add_row(
            one_line(each.step.name),
            one_line(", ".join(after)) or "-",
            f"{each.step.tasks:,}",
            f"{each.most_cpt:,}",
            one_line(each.where),
        )
    total = (
        f"{count_text(len(steps), 'step')}, {count_text(flow.tasks, 'task')}, "
        f"{bytes_text(sum({each.step.source: each.package_bytes for each in steps}.values()))} packed, "
        f"at most {sum(each.most_cpt for each in steps):,} CPT"
    )
    parts: list[RenderableType] = [Text(one_line(flow.name), "bold")] if flow.name else []
    return Group(*parts, table, Text(), Text(total))
