"""The rule of `node.is_owner_only` as a condition on rows of nodes; a test holds both together."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, func, or_

from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.isolation import Isolation, keeps_strangers_out
from nodepool.domain.nodes.node import ENGINE_AWAY, NodeKind
from nodepool.domain.trust.tiers import DOCKER_WORKS
from nodepool.stores.sql.tables import nodes

_KEEPING_OUT = sorted(level for level in Isolation if keeps_strangers_out(level))
_TELLS_NOTHING = nodes.c.isolation == ""
_HAS_ENGINE = or_(
    func.lower(func.trim(nodes.c.docker_status)).in_(sorted(DOCKER_WORKS)),
    nodes.c.docker_status == ENGINE_AWAY,
)


def is_understood() -> ColumnElement[bool]:
    """Nodes that speak this pool's protocol, as far as they have shown. Others run nobody's tasks."""
    return nodes.c.generation != Generation.LATER


def takes_strangers() -> ColumnElement[bool]:
    """Nodes that run tasks of others than their owner."""
    return or_(
        nodes.c.kind != NodeKind.AGENT,
        nodes.c.accepts_strangers,
        nodes.c.isolation.in_(_KEEPING_OUT),
        and_(_TELLS_NOTHING, _HAS_ENGINE),
    )
