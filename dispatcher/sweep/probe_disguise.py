"""What a probe looks like from outside: ids, needs and packages such as users' tasks have.

A node that knows which of its tasks are measured does well at those alone. So a probe's id, memory and bound
are those of tasks that users sent lately, its package has other names, another entry and another size each
time, and its chance is the system's. Who reads every program that they run can still find out what it does.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from nodepool.domain.tasks.package_rules import ENTRY_SCRIPTS
from nodepool.domain.trust.benchmark_probe import NAMES, Probe
from nodepool.stores.sql.task_rows import RecentTask

_HEX_DIGITS = 8
_MAX_BYTES = 256 << 10
_LEAST_BYTES = 600
# A ZIP knows no earlier time, 1980.
_ZIP_BEGINS = 315_619_200
# Where no user has sent a task yet.
_USUAL_BYTES = (1_500, 40_000)
_USUAL_MEMORY_GB = (0, 1, 2)
_WORDS = (
    "alpha", "batch", "block", "chunk", "count", "cursor", "data", "delta", "digest", "entry", "field",
    "frame", "index", "input", "item", "key", "layer", "level", "limit", "lines", "mark", "matrix",
    "number", "offset", "output", "page", "part", "piece", "point", "range", "rate",
    "record", "result", "rows", "sample", "scale", "score", "series", "shape", "size", "slot", "stage",
    "start", "state", "step", "stream", "table", "target", "total", "unit", "value", "weight", "width",
    "window",
)  # fmt: skip
_FOLDERS = ("", "data/", "input/", "assets/")
_KINDS = ("csv", "txt", "tsv", "dat")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeShape:
    task_id: str
    memory_gb: int
    max_minutes: int
    package_bytes: int


def shape_of(
    recent: Sequence[RecentTask], chance: Random, *, now: float, memory_gb: int, default_minutes: int
) -> ProbeShape:
    """Like one of these tasks of users; `memory_gb` is the most."""
    like = chance.choice(recent) if recent else None
    fitting = [it for it in _USUAL_MEMORY_GB if it <= memory_gb]
    return ProbeShape(
        task_id=_id_like(like.id if like is not None else "", chance, now),
        memory_gb=min(like.memory_gb, memory_gb) if like is not None else chance.choice(fitting),
        max_minutes=like.max_minutes if like is not None else default_minutes,
        package_bytes=like.package_bytes if like is not None else chance.randint(*_USUAL_BYTES),
    )


def _id_like(task_id: str, chance: Random, now: float) -> str:
    """As the clients make them: with the time in it, or with hex digits alone."""
    head, _, tail = task_id.rpartition("_")
    is_hex = bool(tail) and not set(tail) - set("0123456789abcdef")
    digits = "".join(chance.choice("0123456789abcdef") for _ in range(len(tail) if is_hex else _HEX_DIGITS))
    if head == "task" and is_hex:
        return f"task_{digits}"
    moment = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now))
    return f"task_{moment}_{digits[:_HEX_DIGITS].ljust(_HEX_DIGITS, '0')}"


def round_as_people_do(score: int) -> int:
    """A share of a node to the last point is nobody's wish: two digits, and zeros."""
    unit = int(10 ** max(0, len(str(score)) - 2))
    return max(1, score // unit * unit)


def package(probe: Probe, shape: ProbeShape, chance: Random, now: float) -> bytes:
    """Of about the size that the shape tells, or as small as it can be."""
    names = dict(zip(NAMES, _names(chance, len(NAMES)), strict=True))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # Whoever sent a task packed it a moment before.
        packed_at = time.gmtime(max(_ZIP_BEGINS, now - chance.uniform(1, 600)))[:6]
        entry = zipfile.ZipInfo(chance.choice(ENTRY_SCRIPTS), packed_at)
        archive.writestr(entry, probe.source(names), zipfile.ZIP_DEFLATED)
        left = min(shape.package_bytes, _MAX_BYTES) - buffer.tell()
        while left > _LEAST_BYTES:
            some = left if chance.random() < 0.5 else chance.randint(_LEAST_BYTES, left)
            word, kind = chance.choice(_WORDS), chance.choice(_KINDS)
            name = f"{chance.choice(_FOLDERS)}{word}{chance.randint(1, 99)}.{kind}"
            if name not in archive.namelist():
                before = buffer.tell()
                archive.writestr(zipfile.ZipInfo(name, packed_at), _table(chance, some), zipfile.ZIP_DEFLATED)
                left -= buffer.tell() - before
    return buffer.getvalue()


def _names(chance: Random, count: int) -> list[str]:
    found: set[str] = set()
    while len(found) < count:
        first, second = chance.choice(_WORDS), chance.choice(_WORDS)
        found.add(f"{first}_{second}" if first != second else f"the_{first}")
    names = list(found)
    chance.shuffle(names)
    return names


def _table(chance: Random, packed_bytes: int) -> str:
    """Numbers, which pack to a little less than half of their text."""
    columns, lines = chance.randint(2, 8), []
    written = 0
    while written < 2 * packed_bytes:
        lines.append(",".join(f"{chance.gauss(0, 1):.6f}" for _ in range(columns)))
        written += len(lines[-1]) + 1
    return "\n".join(lines) + "\n"
