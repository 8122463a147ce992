"""`hivemind admin grant`: CPT for the accounts that never had any, as those of a pool older than its ledger.

On the pool's own host, against the database itself. Done again it gives nobody anything twice.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from local_pool.pool_place import check_there, data_dir_option, find_place
from nodepool.domain.errors import NodePoolError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import AccountKind, EntryKind, NewEntry
from nodepool.stores.sql import admin as admin_store, restores
from nodepool.stores.sql.database import Connection, Database, translated_errors
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.users import UserName, without_movements


@click.command("grant")
@click.argument("amount", type=click.IntRange(min=1))
@click.option("--all-without", is_flag=True, required=True, help="Every account on which nothing ever moved.")
@click.option("--memo", default="a first grant", show_default=True, help="In their statements.")
@click.option("--dry-run", is_flag=True, help="Only tell who would get it.")
@data_dir_option
def grant(amount: int, data_dir: Path | None, *, all_without: bool, memo: str, dry_run: bool) -> None:  # noqa: ARG001
    """Make AMOUNT new CPT for each account that never had any. The same again changes nothing."""
    place = find_place(data_dir)
    check_there(place)
    database = Database(place.database_url)
    try:
        with translated_errors():
            found = database.read(without_movements)
            given = found if dry_run else [user for user in found if _given(database, user, amount, memo)]
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.close()
    for user in given:
        click.echo(f"{user.username}: {amount} CPT")
    word = "would get" if dry_run else "got"
    click.echo(f"{len(given)} accounts {word} {amount} CPT each")


def _given(database: Database, user: UserName, amount: int, memo: str) -> bool:
    now = time.time()
    # By the account, whatever the amount: nobody gets it twice.
    entry_id = ledger.mint_id(f"all-without:{user.id}")
    account = ledger.user_account(user.id)
    entry = NewEntry(entry_id, EntryKind.GRANT, AccountKind.MINT, account, amount, "", memo)

    def work(connection: Connection) -> bool:
        if not ledger_store.move(connection, [entry], now):
            return False
        detail = {"amount": amount, "memo": memo, "all_without": True}
        admin_store.record(connection, restores.HOST, "grant", user.username, detail, now)
        return True

    return database.write(work)
