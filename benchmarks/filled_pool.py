"""Puts tasks that have ended (benchmarks/finished_tasks.py) into the database of a pool: straight to the
driver, many rows at once. Whoever calls it has the database to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from benchmarks.finished_tasks import NODES, SCORE, SPREAD_SECONDS, FinishedTasks, Row, node_id_of
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import AccountKind, EntryKind, NewEntry
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import (
    credit_changes,
    ledger_accounts,
    ledger_entries,
    ledger_head,
    nodes,
    storage_accounts,
    users,
)

_AT_ONCE = 5000
_GRANT = 1 << 50


def fill(database: Database, count: int, owners: Sequence[int], *, now: float, seed: int = 1) -> None:
    """So many ended tasks of users more; runs, probes and checks come on top. `owners` have accounts."""
    database.write(lambda c: _nodes(c, owners[-1], now))
    made = FinishedTasks(owners, now, seed)
    database.write(lambda c: _begin(c, made))
    left = count
    while left:
        batch = made.batch(min(left, _AT_ONCE))
        left -= min(left, _AT_ONCE)
        database.write(lambda c: _put(c, batch))  # noqa: B023
    database.write(lambda c: _end(c, made))


def _begin(connection: Connection, made: FinishedTasks) -> None:
    """Everybody gets what their tasks will cost."""
    rows = connection.execute(select(ledger_accounts.c.id, ledger_accounts.c.balance))
    made.balances = {str(row[0]): int(row[1]) for row in rows}
    head = connection.execute(select(ledger_head.c.seq, ledger_head.c.hash)).one()
    made.head = int(head[0]), str(head[1])
    grants = []
    for owner in sorted(set(made.owners)):
        account = ledger.user_account(owner)
        if account not in made.balances:
            connection.execute(
                insert(ledger_accounts),
                {"id": account, "kind": AccountKind.USER, "user_id": owner, "balance": 0},
            )
        entry = NewEntry(
            ledger.mint_id(f"filled{made.head[0]}-{owner}"), EntryKind.GRANT, ledger.MINT, account, _GRANT
        )
        grants.append(made.entry(entry, made.now))
    _put(connection, {ledger_entries: grants})


def _end(connection: Connection, made: FinishedTasks) -> None:
    for account, balance in made.balances.items():
        connection.execute(
            ledger_accounts.update().where(ledger_accounts.c.id == account).values(balance=balance)
        )
    connection.execute(ledger_head.update().values(seq=made.head[0], hash=made.head[1]))
    for owner, size in made.stored.items():
        there = connection.execute(
            storage_accounts.update()
            .where(storage_accounts.c.user_id == owner)
            .values(bytes=storage_accounts.c.bytes + size)
        )
        if not there.rowcount:
            connection.execute(insert(storage_accounts), {"user_id": owner, "bytes": size})
    for seq in connection.execute(select(func.max(credit_changes.c.seq))).scalars():
        if seq and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('credit_changes', 'seq'), "
                "(SELECT max(seq) FROM credit_changes))"
            )


def _put(connection: Connection, rows: dict[Any, list[Row]]) -> None:
    for table, found in rows.items():
        if not found:
            continue
        # Rows of one table may name different columns.
        names = sorted({name for row in found for name in row})
        defaults = {name: _default(table.c[name]) for name in names}
        values = ([row.get(name, defaults[name]) for name in names] for row in found)
        _copy(connection, table.name, names, values)


def _default(column: Any) -> Any:
    if column.server_default is None:
        return None
    text = str(column.server_default.arg)
    kind = column.type.python_type
    return text == "true" if kind is bool else kind(text)


def _copy(connection: Connection, table: str, names: Sequence[str], rows: Iterable[list[Any]]) -> None:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" for _ in names)
        driver.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", _plain(rows))
        return
    quoted = ", ".join(f'"{name}"' for name in names)
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({quoted}) FROM STDIN") as copy:
        for row in _plain(rows):
            copy.write_row(row)


def _plain(rows: Iterable[list[Any]]) -> Iterator[list[Any]]:
    for row in rows:
        yield [str(value) if isinstance(value, str) else value for value in row]


def _nodes(connection: Connection, owner_id: int, now: float) -> None:
    """Which have left since: nobody waits for them."""
    there = set(connection.execute(select(nodes.c.id)).scalars())
    new = [node_id_of(number) for number in range(NODES) if node_id_of(number) not in there]
    for node_id in new:
        connection.execute(
            insert(nodes),
            {
                "id": node_id, "owner_id": owner_id, "hostname": "left", "port": 0, "kind": "agent",
                "cpu_cores": 4, "cpu_score": 4000, "memory_gb": 8, "gpu_score": 0, "gpu_memory_gb": 0,
                "gpu_name": "", "location": "", "region": "asia", "docker_status": "running",
                "max_tasks": 8, "active": False, "registered_at": now - SPREAD_SECONDS, "seen_at": now,
            },
        )  # fmt: skip


def people(connection: Connection, count: int, now: float) -> list[int]:
    """So many users with nothing yet."""
    found = []
    for number in range(count):
        name = f"filled{number}"
        row = {
            "username": name, "name_key": name, "password_hash": "", "credit_score": SCORE,
            "created_at": now,
        }  # fmt: skip
        found.append(int(connection.execute(insert(users).values(row).returning(users.c.id)).scalar_one()))
    return found
