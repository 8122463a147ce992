"""The verdict on a probe in one transaction: it is kept once, and what follows for the node and its owner.

How a probe is judged is in domain/trust/benchmark_probe.py; whoever asks has read the answer.
"""

from __future__ import annotations

from nodepool.domain.ends.effects import Effects
from nodepool.domain.trust.benchmark_probe import ProbeVerdict
from nodepool.stores.sql import probes as probe_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.probes import Closing
from nodepool.stores.sql.task_rows import OpenProbe
from nodepool.workflows import audit
from nodepool.workflows.decision import Deciding


def close(connection: Connection, probe: OpenProbe, closing: Closing, by: Deciding) -> Effects | None:
    """What is to be told outside SQL: users with another tier, and runs that wait. None: judged before."""
    if not probe_store.close(connection, probe, closing):
        return None
    is_false = closing.verdict is ProbeVerdict.WRONG
    return audit.judge(
        connection, probe.node_id, probe.owner_id, by, is_false=is_false, changes=closing.changes
    )
