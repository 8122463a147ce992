"""Single changes of a task that would place it: each is found on the fleet, then tried by placing with it.

Pure. How small a change is: the share of a request that it gives up. A lowered amount gives up its
relative reduction, 1/4 of the memory for 12 GiB instead of 16. Of the other fields the table below
says. Of changes of one size that which more nodes would take comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from nodepool.domain import regions
from nodepool.domain.explain.pool_view import PoolView
from nodepool.domain.resources import MEBIBYTES_PER_GIBIBYTE, RESOURCE_NAMES
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import RANK, TIERS, Tier

ANY = "any"
# What a field is changed to, and how much of it that gives up.
PREFERRED_ONLY = Fraction(1, 4)
ANOTHER = Fraction(1, 2)
NONE_LEFT = Fraction(1)

# field -> the resource of a claim that it becomes
_RESOURCE_OF = MappingProxyType(
    {
        "cpu_score": "cpu_score",
        "memory_gb": "memory_mb",
        "gpu_score": "gpu_score",
        "gpu_memory_gb": "gpu_memory_gb",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """One field of the task with another value, and the nodes that would take the task then."""

    field: str
    value: str
    sentence: str
    gives_up: Fraction
    nodes: int


def changes(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> list[TaskChange]:
    """Every single change with which a node of this fleet takes the task, the smallest first."""
    found = [
        *_amounts(request, pool, fleet),
        *_region(request, pool, fleet),
        *_gpu_name(request, pool, fleet),
        *_trust(request, pool, fleet),
        *_secrets(request, pool, fleet),
        *_node(request, pool, fleet),
    ]
    return sorted(found, key=lambda change: (change.gives_up, -change.nodes, change.field, change.value))


def _amounts(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    claim = request.requirements(pool.default_memory_mb).claim
    for field, resource in _RESOURCE_OF.items():
        before = getattr(claim, resource)
        least = _with_amount(request, field, _least(field, pool))
        if getattr(least.requirements(pool.default_memory_mb).claim, resource) >= before:
            continue
        # Whoever takes the task without this need is kept out by this need alone.
        rows = [fleet.row_of[node_id] for node_id in pool.takers(least, fleet)]
        if not rows:
            continue
        index = RESOURCE_NAMES.index(resource)
        free = int((fleet.capacity[index, rows] - fleet.reserved[index, rows]).max())
        value = free // MEBIBYTES_PER_GIBIBYTE if field == "memory_gb" else free
        changed = _with_amount(request, field, max(value, _least(field, pool)))
        after = getattr(changed.requirements(pool.default_memory_mb).claim, resource)
        takers = pool.takers(changed, fleet)
        if takers and after < before:
            yield TaskChange(
                field=field,
                value=str(getattr(changed.needs, field)),
                sentence=_less(field, changed, request, pool),
                gives_up=Fraction(before - after, before),
                nodes=len(takers),
            )


def _least(field: str, pool: PoolView) -> int:
    """The value that claims least. A task that names no memory gets the pool's default, which may be much."""
    return int(field == "memory_gb" and pool.default_memory_mb > MEBIBYTES_PER_GIBIBYTE)


def _with_amount(request: PlacementRequest, field: str, amount: int) -> PlacementRequest:
    in_mebibytes = {"memory_mb": 0} if field == "memory_gb" else {}
    return replace(request, needs=replace(request.needs, **{field: amount}, **in_mebibytes))


def _less(field: str, changed: PlacementRequest, request: PlacementRequest, pool: PoolView) -> str:
    after, before = getattr(changed.needs, field), getattr(request.needs, field)
    if field == "memory_gb":
        default = f"the pool's default of {pool.default_memory_mb} MiB"
        asked = f"{before} GiB of memory" if before else default
        if request.needs.memory_mb:
            asked = f"{request.needs.memory_mb} MiB of memory"
        return f"ask for {f'{after} GiB of memory' if after else default} instead of {asked}"
    if field == "gpu_memory_gb":
        return f"ask for {after} GiB of GPU memory instead of {before}"
    return f"ask for {field} {after} instead of {before}"


def _region(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    if request.region == regions.ANY or request.relaxed:
        return
    anywhere = replace(request, region=regions.ANY)
    takers = pool.takers(anywhere, fleet)
    if not takers:
        return
    if request.location_mode is LocationMode.STRICT:
        yield TaskChange(
            field="location_mode",
            value=LocationMode.PREFER,
            sentence=f"only prefer {request.region}: after {pool.patience_seconds:g} s without room there "
            "the task takes the nearest other region",
            gives_up=PREFERRED_ONLY,
            nodes=len(pool.takers(replace(request, relaxed=True), fleet)),
        )
    there = Counter(regions.NODE_REGIONS[int(fleet.region[fleet.row_of[node_id]])] for node_id in takers)
    nearest = min(there, key=lambda slug: (regions.distance(request.region, slug), -there[slug], slug))
    yield from _tried(
        pool,
        fleet,
        replace(request, region=nearest),
        ("location", nearest, f"let it run in {nearest}, the region with room nearest to {request.region}"),
        ANOTHER,
    )
    yield from _tried(pool, fleet, anywhere, ("location", "Any", "let it run in any region"), NONE_LEFT)


def _gpu_name(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    if not request.gpu_name:
        return
    anything = replace(request, gpu_name="")
    there = Counter(int(fleet.gpu[fleet.row_of[node_id]]) for node_id in pool.takers(anything, fleet))
    words = {fleet.gpu_code(name): word for name, word in pool.gpu_words.items() if name}
    most = max((code for code in there if code in words), key=lambda code: (there[code], code), default=None)
    if most is not None:
        word = words[most]
        sentence = f"ask for the GPU {word} instead of {request.gpu_name}"
        yield from _tried(pool, fleet, replace(request, gpu_name=word), ("gpu_name", word, sentence), ANOTHER)
    yield from _tried(
        pool, fleet, anything, ("gpu_name", "Any", f"do not insist on the GPU {request.gpu_name}"), NONE_LEFT
    )


def _trust(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    if request.min_trust is None:
        return
    for tier in TIERS[RANK[request.min_trust] + 1 :]:
        changed = replace(request, min_trust=None if tier is Tier.LOW else tier)
        value = ANY if tier is Tier.LOW else tier
        words = (
            "let it run on nodes of any trust" if tier is Tier.LOW else f"let nodes of {tier} trust run it"
        )
        found = list(
            _tried(
                pool,
                fleet,
                changed,
                ("min_trust", value, f"{words}, not only of {request.min_trust}"),
                NONE_LEFT if tier is Tier.LOW else ANOTHER,
            )
        )
        if found:
            yield from found
            return


def _secrets(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    if request.secrets_of:
        sentence = (
            "let nodes of low trust have its secrets, too (--secret-on-low-trust): their owners can read them"
        )
        changed = replace(request, secrets_of=0)
        yield from _tried(pool, fleet, changed, ("secrets_on_low_trust", "true", sentence), NONE_LEFT)


def _node(request: PlacementRequest, pool: PoolView, fleet: Fleet) -> Iterator[TaskChange]:
    if request.node_id:
        sentence = f"submit it without naming the node {request.node_id}"
        yield from _tried(pool, fleet, replace(request, node_id=""), ("node_id", ANY, sentence), NONE_LEFT)


def _tried(
    pool: PoolView, fleet: Fleet, changed: PlacementRequest, words: tuple[str, str, str], gives_up: Fraction
) -> Iterator[TaskChange]:
    takers = pool.takers(changed, fleet)
    if takers:
        field, value, sentence = words
        yield TaskChange(field=field, value=value, sentence=sentence, gives_up=gives_up, nodes=len(takers))
