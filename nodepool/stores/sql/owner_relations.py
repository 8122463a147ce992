"""Who could check a task, and which owners may be one person. The rules are in domain/trust/audits.py.

Functions of a connection; they only read. What makes two owners look like one: nodes at the same address
that is not this machine's own, or CPT that one of them sent to the other. A receiver cannot help being sent
some, so this never decides who checks whom, or anybody could choose their checkers by paying all the others:
it only decides whether their agreement says something.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from itertools import combinations

from sqlalchemy import Connection, Select, func, or_, select, text

from nodepool.domain import regions
from nodepool.domain.money import ledger
from nodepool.domain.nodes import message_limits
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.audits import Reach
from nodepool.stores.sql.owner_only_nodes import is_understood, takes_strangers
from nodepool.stores.sql.tables import ledger_entries, nodes, tasks

# As its index has it, word for word: a database takes a partial index only where it sees that it fits.
_TRANSFER = text("ledger_entries.kind = 'transfer'")


def reach(connection: Connection, task_id: str, besides: Collection[int], *, allow_pushed: bool) -> Reach:
    """Who could check the task, beside these owners. Whether there is room now does not matter; requests that
    a check keeps do."""
    query = select(nodes.c.owner_id, nodes.c.peer_address).where(
        nodes.c.active,
        nodes.c.draining.is_(False),
        nodes.c.owner_id.not_in(sorted(besides)),
        takes_strangers(),
        is_understood(),
    )
    if not allow_pushed:
        query = query.where(nodes.c.kind == NodeKind.AGENT)
    able = query.join(tasks, tasks.c.id == task_id).where(
        nodes.c.cpu_score >= tasks.c.cpu_score,
        nodes.c.memory_gb >= tasks.c.memory_gb,
        nodes.c.gpu_score >= tasks.c.gpu_score,
        nodes.c.gpu_memory_gb >= tasks.c.gpu_memory_gb,
        or_(
            tasks.c.region == regions.ANY,
            tasks.c.location_mode != LocationMode.STRICT,
            nodes.c.region == tasks.c.region,
        ),
        or_(
            nodes.c.message_bytes == 0,
            nodes.c.message_bytes >= tasks.c.package_bytes + message_limits.AROUND_BYTES,
        ),
        or_(tasks.c.gpu_name == "", func.lower(nodes.c.gpu_name) == func.lower(tasks.c.gpu_name)),
    )
    return Reach(_count(connection, able), _count(connection, query))


def _count(connection: Connection, query: Select[tuple[int, str]]) -> int:
    return _distinct((row.owner_id, row.peer_address) for row in connection.execute(query.distinct()))


def _distinct(found: Iterable[tuple[int, str]]) -> int:
    """How many owners there are when those who share an address are one."""
    above: dict[int | str, int | str] = {}

    def root(key: int | str) -> int | str:
        while above[key] != key:
            key = above[key]
        return key

    owners = set()
    for owner_id, address in found:
        owners.add(owner_id)
        above.setdefault(owner_id, owner_id)
        if is_elsewhere(address):
            above.setdefault(address, address)
            above[root(address)] = root(owner_id)
    return len({root(owner_id) for owner_id in owners})


def is_elsewhere(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def related(connection: Connection, owner_ids: Collection[int]) -> frozenset[frozenset[int]]:
    """Pairs of these owners who may be one person."""
    wanted = sorted(set(owner_ids))
    addresses: dict[int, set[str]] = {owner_id: set() for owner_id in wanted}
    query = select(nodes.c.owner_id, nodes.c.peer_address).where(nodes.c.owner_id.in_(wanted))
    for owner_id, address in connection.execute(query.distinct()):
        if is_elsewhere(address):
            addresses[owner_id].add(address)
    pairs = {frozenset(pair) for pair in combinations(wanted, 2) if addresses[pair[0]] & addresses[pair[1]]}
    accounts = {ledger.user_account(owner_id): owner_id for owner_id in wanted}
    sent = select(ledger_entries.c.debit_account, ledger_entries.c.credit_account).where(
        _TRANSFER,
        ledger_entries.c.debit_account.in_(accounts),
        ledger_entries.c.credit_account.in_(accounts),
    )
    for debit, credit in connection.execute(sent.distinct()):
        pairs.add(frozenset({accounts[debit], accounts[credit]}))
    return frozenset(pairs)


def neighbours(
    connection: Connection, node_ids: Collection[str], owner_ids: Collection[int]
) -> frozenset[str]:
    """Those of these nodes that are at an address of one of these owners' nodes."""
    theirs = select(nodes.c.peer_address).where(nodes.c.owner_id.in_(sorted(owner_ids)), nodes.c.active)
    query = select(nodes.c.id, nodes.c.peer_address).where(
        nodes.c.id.in_(sorted(node_ids)), nodes.c.peer_address.in_(theirs)
    )
    return frozenset(row.id for row in connection.execute(query) if is_elsewhere(row.peer_address))
