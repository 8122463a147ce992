"""What heavy work may use: numbers only, for whoever sets them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyLimits:
    """`cpu_seconds` and `memory_bytes` are of one job; what waits is counted for each account and in all."""

    processes: int = 2
    cpu_seconds: int = 60
    memory_bytes: int = 512 << 20
    waiting_of_one: int = 16
    waiting: int = 1600
