"""`hivemind admin db`: back to the version before with data, and words where that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text

from local_pool.db_command import db
from nodepool.stores.sql import migrate
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from nodepool.stores.sql.tables import tasks
from tests.support.money import add_held_task, add_payer


def _run(url: str, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(db, arguments, env={"DATABASE_URL": url})
    return done.exit_code, done.output


@pytest.fixture
def filled(database_url: str) -> str:
    database = Database(database_url)
    user = database.write(lambda c: add_payer(c, "ada"))
    database.write(lambda c: add_held_task(c, user, "waits", created_at=1.0))
    database.close()
    return database_url


def test_back_to_the_version_before_and_forward_again_with_everything_in_it(filled: str) -> None:
    oldest, newest = migrate.OLDEST_REVISION, migrate.newest_revision()
    code, output = _run(filled, "downgrade", oldest)
    assert code == 0, output
    assert f"at {oldest}" in output
    assert f"at {oldest}; this version knows up to {newest}" in _run(filled, "current")[1]
    assert "nothing was changed" in _run(filled, "downgrade", oldest)[1]
    assert _run(filled, "upgrade") == (0, f"the database is at {newest}\n")
    database = Database(filled)
    assert verify_database(database).problems == []
    assert database.read(lambda c: c.execute(select(tasks.c.id)).scalars().all()) == ["waits"]
    database.close()


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("0001", "would delete what the pool must remember"),
        ("9999", "there is no revision '9999'"),
        ("nonsense", "there is no revision 'nonsense'"),
    ],
)
def test_a_downgrade_that_cannot_be_is_refused_in_words_and_changes_nothing(
    filled: str, revision: str, words: str
) -> None:
    code, output = _run(filled, "downgrade", revision)
    assert code == 1
    assert words in output
    assert f"at {migrate.newest_revision()};" in _run(filled, "current")[1]


def test_a_database_of_a_newer_version_is_named_and_left_alone(filled: str) -> None:
    database = Database(filled)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9000'"))
    with pytest.raises(migrate.NewerDatabaseError, match="newer version of the pool"):
        migrate.migrate(database)
    database.close()
    for command in (["upgrade"], ["downgrade", migrate.OLDEST_REVISION]):
        code, output = _run(filled, *command)
        assert (code, "newer version of the pool" in output) == (1, True)


def test_nothing_is_taken_back_under_a_pool_that_runs(filled: str) -> None:
    database = Database(filled)
    try:
        with database.engine.connect() as connection:
            connection.execute(select(tasks.c.id)).all()
            code, output = _run(filled, "downgrade", migrate.OLDEST_REVISION)
    finally:
        database.close()
    assert code == 1
    assert "in use" in output
    assert "stop the pool first" in output


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    code, output = _run(f"sqlite:///{tmp_path / 'none.db'}", "current")
    assert code == 1
    assert "there is no database" in output
    assert not (tmp_path / "none.db").exists()


NEEDED = """
revision = "9001"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade():
    pass


def refuses_downgrade(connection):
    waiting = connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one()
    return f"{{waiting}} tasks need it" if waiting else ""
"""


def test_a_migration_may_have_a_reason_in_the_data(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, folder = migrate.newest_revision(), tmp_path / "migrations"
    shutil.copytree(migrate.SCRIPTS, folder)
    (folder / "versions/v9001_needed.py").write_text(NEEDED.format(newest=newest))
    monkeypatch.setattr(migrate, "SCRIPTS", folder)
    assert _run(filled, "upgrade") == (0, "the database is at 9001\n")
    code, output = _run(filled, "downgrade", newest)
    assert code == 1
    assert "the downgrade of 9001 is refused: 1 tasks need it; restore a backup" in output
    assert "at 9001;" in _run(filled, "current")[1]
