"""Which generation of the protocol a node without an agent speaks, known by its words. Pure.

Workers of a later generation have the same names of services and calls with other numbers: they register and
can run nothing of this pool's. Their ReportStatus tells them apart: it has fields that this generation's has
not. So nothing is given to a node before its first report; what it is then it stays until it registers again.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from nodepool.domain.nodes.node import NodeKind

# Of ReportStatus, where this generation has two fields and numbers its own additions from 100 up.
_FIELDS_OF_LATER = frozenset(range(3, 9))


class Generation(StrEnum):
    OURS = ""  # and that of every agent, which says itself what it is
    UNTOLD = "untold"  # it has registered, and not reported yet
    LATER = "later"


NO_WORK_WORDS = {
    Generation.OURS: "",
    Generation.UNTOLD: "it has not reported its status since it registered (ReportStatus)",
    Generation.LATER: (
        "its worker speaks a later generation of the protocol than this pool, and could run nothing of it: "
        "start an agent there (hivemind-agent), or a worker of this pool's generation"
    ),
}


def when_registered(kind: NodeKind) -> Generation:
    return Generation.UNTOLD if kind is NodeKind.PUSHED else Generation.OURS


def after_report(before: Generation, unknown_fields: Collection[int]) -> Generation:
    """`unknown_fields`: the numbers that this generation does not have in ReportStatus.

    A report in which all of those happen to be empty looks like one of ours; so only a new registration
    makes a node of a later generation fit.
    """
    if before is Generation.LATER or not _FIELDS_OF_LATER.isdisjoint(unknown_fields):
        return Generation.LATER
    return Generation.OURS
