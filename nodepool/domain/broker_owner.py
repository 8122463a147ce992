"""Whose broker it is: a pool's database and its broker know each other by one id.

To the database of another pool all nodes there would be strangers, whose users and keys had to go. Pure.
"""

from __future__ import annotations

from enum import StrEnum

from nodepool.domain.errors import NodePoolError

NAMED_CHARACTERS = 8


class BrokerOwner(StrEnum):
    OURS = "ours"
    NOBODY = "nobody"
    ANOTHER = "another"


class ForeignBrokerError(NodePoolError):
    """The broker belongs to another pool."""


def owner_of(mark: str, pool_id: str, *, has_nodes: bool, knows_nodes: bool) -> BrokerOwner:
    """`mark`: the pool's id as the broker has it; empty in one that was emptied, is new, or is of an
    earlier version. Then its nodes tell: `knows_nodes` says that this database has heard of some."""
    if mark:
        return BrokerOwner.OURS if mark == pool_id else BrokerOwner.ANOTHER
    return BrokerOwner.ANOTHER if has_nodes and not knows_nodes else BrokerOwner.NOBODY


def refusal(mark: str, pool_id: str) -> str:
    """For the operator: what is wrong and what to do."""
    there = f"pool {mark[:NAMED_CHARACTERS]}" if mark else "nodes that this database has never heard of"
    return (
        f"the broker has {there}, and the database is pool {pool_id[:NAMED_CHARACTERS]}: nothing there is "
        "touched. Set REDIS_URL or DATABASE_URL right. If this database shall have that broker from now on, "
        "stop the other pool and run `hivemind admin broker take`"
    )
