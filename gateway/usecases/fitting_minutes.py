"""How long a task may run that names no bound: what its owner can pay for, up to the pool's default."""

from __future__ import annotations

from nodepool.domain.money.pricing import covered_minutes
from nodepool.domain.tasks.new_task import RequestedTask


def fitting_minutes(columns: RequestedTask, price_per_minute: int, balance: int) -> tuple[int, bool]:
    """How long the task may run, and whether that is the balance's doing."""
    most = columns["max_minutes"]
    if not columns["minutes_by_balance"]:
        return most, False
    minutes = max(1, covered_minutes(balance, price_per_minute * columns["replicas"], most))
    return minutes, minutes < most
