"""`hivemind ledger verify`: on the operator's machine, against the database itself.

It changes nothing but the note of when it ran and what it found, which metrics show.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from local_pool.command import read_settings
from nodepool.domain.errors import UnavailableError
from nodepool.settings import Settings
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database, database_file, translated_errors
from nodepool.stores.sql.ledger.report import LedgerReport
from nodepool.stores.sql.ledger.verify import verify_database
from nodepool.stores.sql.pool_records import LedgerVerification

WRONG_EXIT = 1


@click.command("verify")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The data directory of `hivemind up`, whose database is checked; else DATABASE_URL or DB_PATH.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def verify(data_dir: Path | None, *, as_json: bool) -> None:
    """Work every balance, the chain of entries and every hold out again. Exit code 1: something is wrong.

    The pool may go on meanwhile. Keep the hash that is printed at another place: a later check of a
    ledger that was written anew from its start would show another one for the same number of entries.
    """
    report = _report(database_url(read_settings(), data_dir))
    if as_json:
        click.echo(json.dumps({"right": report.is_right, **asdict(report)}))
    else:
        _print_report(report)
    if not report.is_right:
        sys.exit(WRONG_EXIT)


def database_url(settings: Settings, data_dir: Path | None) -> str:
    """The database to check. One that is not there is not made."""
    url = settings.effective_database_url if data_dir is None else f"sqlite:///{data_dir / 'pool.db'}"
    path = database_file(url)
    if path is not None and not Path(path).is_file():
        raise click.ClickException(
            f"there is no database {path!r}: set DATABASE_URL or DB_PATH as the pool has it, or give "
            "--data-dir of `hivemind up`"
        )
    return url


def _report(url: str) -> LedgerReport:
    database = Database(url)
    try:
        with translated_errors():
            report = verify_database(database)
        _keep(database, report)
    except UnavailableError as error:
        raise click.ClickException(str(error)) from error
    else:
        return report
    finally:
        database.close()


def _keep(database: Database, report: LedgerReport) -> None:
    """For metrics. A database that may only be read is verified all the same."""
    found = LedgerVerification(time.time(), report.is_right, report.entries)
    try:
        database.write(lambda connection: pool_records.keep_verification(connection, found))
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is what was asked for
        click.echo(f"note: it could not be kept that the ledger was verified: {error}", err=True)


def _print_report(report: LedgerReport) -> None:
    counts = f"{report.entries} entries, {report.accounts} accounts, {report.holds} holds"
    if report.is_right:
        click.echo(f"the ledger is right: {counts}, {report.minted} CPT minted")
        click.echo(f"hash of entry {report.entries}: {report.head}")
        return
    for problem in report.problems:
        click.echo(problem)
    click.echo(f"the ledger is NOT right ({counts}); do not change anything, and see docs/money.md", err=True)
