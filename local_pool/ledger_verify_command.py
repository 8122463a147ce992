"""`hivemind ledger verify`: on the operator's machine, against the database itself. It changes nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from local_pool.command import read_settings
from nodepool.domain.errors import UnavailableError
from nodepool.settings import Settings
from nodepool.stores.sql.database import Database, database_file, translated_errors
from nodepool.stores.sql.ledger.report import LedgerReport
from nodepool.stores.sql.ledger.verify import verify_database

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
            return verify_database(database)
    except UnavailableError as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.close()


def _print_report(report: LedgerReport) -> None:
    counts = f"{report.entries} entries, {report.accounts} accounts, {report.holds} holds"
    if report.is_right:
        click.echo(f"the ledger is right: {counts}, {report.minted} CPT minted")
        click.echo(f"hash of entry {report.entries}: {report.head}")
        return
    for problem in report.problems:
        click.echo(problem)
    click.echo(f"the ledger is NOT right ({counts}); do not change anything, and see docs/money.md", err=True)
