"""What keeps a backup from being made or restored: each says so in words, and nothing is changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select, update

from local_pool import backup as backup_of_pool, restored_files
from nodepool.domain.backups.manifest import Manifest, is_backup_id, manifest_text
from nodepool.stores.files.backup_folder import BackupFolder, new_id
from nodepool.stores.files.encryption import key_from_secret
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.files.locks import removals_held
from nodepool.stores.sql import postgres_tools, users as user_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.restores import last
from nodepool.stores.sql.tables import tasks, users
from nodepool.stores.sql.users import NewUser
from tests.support.backups import backed_up, restored, run_backup, run_restore
from tests.support.money import add_held_task, add_payer
from tests.support.tasks import script

SECRET = "a storage key of forty characters at least"
PACKAGE = script("print(1)")


class Place:
    """A pool's database and storage with one task, no part running."""

    def __init__(self, folder: Path, url: str) -> None:
        self.backups = folder / "backups"
        self.storage = folder / "storage"
        self.url = url
        self.environment = {
            "DATABASE_URL": url,
            "TASK_STORAGE_PATH": str(self.storage),
            "STORAGE_KEY": SECRET,
            "JWT_SECRET_KEY": "j" * 40,
            "REDIS_URL": "redis://127.0.0.1:1/0",  # nobody answers
            "REDIS_TIMEOUT_SECONDS": "1",
        }
        self.files = FileStore(self.storage, key_from_secret(SECRET))
        database = Database(url)
        self.user = database.write(lambda c: add_payer(c, "ada"))
        self.add_task(database, self.user, "first", PACKAGE)
        database.close()

    def add_task(self, database: Database, user: int, name: str, package: bytes) -> str:
        sha = self.files.put_package(package)
        database.write(lambda c: add_held_task(c, user, name, created_at=1.0))
        keep = update(tasks).where(tasks.c.id == name).values(package_sha256=sha, keeps_package=True)
        database.write(lambda c: c.execute(keep))
        return sha

    def tree(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.storage)): path.read_bytes()
            for path in sorted(self.storage.rglob("*"))
            if path.is_file() and path.parent.name != "locks"
        }

    def names(self) -> list[str]:
        database = Database(self.url)
        try:
            return sorted(database.read(lambda c: c.execute(select(tasks.c.id)).scalars().all()))
        finally:
            database.close()


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Place:
    return Place(tmp_path, database_url)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Place:
    from tests.support import databases

    return Place(tmp_path, f"sqlite:///{databases.sqlite_file(tmp_path / 'users.db')}")


def _refused(place: Place, words: str, *arguments: str | Path, **environment: str) -> None:
    """The restore says so, and everything is as it was."""
    before, names = place.tree(), place.names()
    done = run_restore({**place.environment, **environment}, place.backups, "--force", *arguments)
    assert done.exit_code == 1, done.output
    assert words in done.output
    assert place.tree() == before
    assert place.names() == names
    assert not list(place.storage.glob(f"*{restored_files.STAGED}"))


# -- a backup ---------------------------------------------------------------------------------------------
def test_the_second_backup_copies_what_is_new_and_keys_lie_apart(place: Place) -> None:
    first = backed_up(place.environment, place.backups)
    assert (first["files"], first["copied_files"], first["tasks"]) == (1, 1, 1)
    database = Database(place.url)
    user = database.read(
        lambda c: c.execute(select(users.c.id).where(users.c.username == "ada")).scalar_one()
    )
    place.add_task(database, user, "second", script("print(2)"))
    database.close()
    second = backed_up(place.environment, place.backups)
    assert (second["files"], second["copied_files"], second["tasks"]) == (2, 1, 2)
    keys = place.backups.with_name("backups.keys") / second["id"]
    assert (keys / "storage").read_text() == SECRET
    assert (keys / "storage").stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o777 == 0o700
    assert SECRET.encode() not in b"".join(
        path.read_bytes() for path in place.backups.rglob("*") if path.is_file()
    )
    told = run_backup(place.environment, place.backups, "--keep", "1")
    assert "keep them in another place" in told.output
    assert f"deleted {first['id']}" in told.output
    assert f"deleted {second['id']}" in told.output
    assert run_restore(place.environment, place.backups, "--check").exit_code == 0


def test_a_restore_brings_back_what_was_and_puts_aside_what_is(place: Place) -> None:
    made = backed_up(place.environment, place.backups)
    tree = place.tree()
    database = Database(place.url)
    place.add_task(database, place.user, "second", script("print(2)"))
    database.close()
    done = restored(place.environment, place.backups, "--force")
    assert place.tree().items() >= tree.items()
    assert place.names() == ["first"]
    assert done["put_aside"]
    database = Database(place.url)
    found = database.read(last)
    database.close()
    assert found is not None
    assert done["backup_made_at"] == found.backup_made_at
    assert made["id"] == done["id"]
    assert done["emptied_broker"] is False


def test_the_newest_is_the_last_also_when_the_clock_goes_back() -> None:
    ids: list[str] = []
    for now in (1000.25, 1000.25, 1000.0, 10.0, 1000.5, 5000.0):
        ids.append(new_id(now, ids))
    assert ids == sorted(ids)
    assert all(map(is_backup_id, ids))


def test_keys_inside_the_backup_are_refused(place: Place) -> None:
    done = run_backup(place.environment, place.backups, "--keys-dir", place.backups / "keys")
    assert done.exit_code == 1
    assert "must not be inside" in done.output


def test_nobody_removes_files_while_they_are_copied(on_sqlite: Place) -> None:
    files = on_sqlite.files
    sha = files.put_package(b"no longer needed")
    with removals_held(on_sqlite.storage, 1.0):
        assert files.delete_unneeded(sha, lambda: True) is False
        assert files.has_package(sha)
    assert files.delete_unneeded(sha, lambda: True) is True


def test_a_file_that_went_after_the_moment_makes_it_look_again(
    on_sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who asks no lock removes a file between the moment and its copy, and SQL forgets it."""
    database = Database(on_sqlite.url)
    sha = on_sqlite.add_task(database, on_sqlite.user, "goes", script("print('goes')"))
    looked = backup_of_pool.named_files
    moments = []

    def then_it_goes(connection: object) -> object:
        named = looked(connection)  # type: ignore[arg-type]
        moments.append(sha in named.packages)
        if len(moments) == 1:
            (on_sqlite.storage / "packages" / sha[:2] / sha).unlink()
            forget = update(tasks).where(tasks.c.id == "goes").values(keeps_package=False)
            database.write(lambda c: c.execute(forget))
        return named

    monkeypatch.setattr(backup_of_pool, "named_files", then_it_goes)
    monkeypatch.setattr(backup_of_pool.FileCopier, "copy_new", lambda _self: None)
    made = backed_up(on_sqlite.environment, on_sqlite.backups)
    database.close()
    assert moments == [True, False]
    assert made["missing_files"] == []


def test_what_the_pool_itself_has_lost_is_told_and_keeps_no_backup_from_being_made(
    place: Place,
) -> None:
    shutil.rmtree(place.storage / "packages")
    made = backed_up(place.environment, place.backups)
    assert len(made["missing_files"]) == 1
    assert restored(place.environment, place.backups, "--force")["files"] == 0


def test_what_was_not_finished_is_no_backup(on_sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(BackupFolder, "abandon", killed)
        patched.setattr(BackupFolder, "finish", killed)
        assert run_backup(on_sqlite.environment, on_sqlite.backups).exit_code == 1
    assert list((on_sqlite.backups / "backups").glob(".*.part"))
    done = run_restore(on_sqlite.environment, on_sqlite.backups, "--check")
    assert "there is no whole backup" in done.output
    backed_up(on_sqlite.environment, on_sqlite.backups)
    assert not list((on_sqlite.backups / "backups").glob(".*.part"))


def test_a_full_disk_leaves_no_backup_and_the_earlier_one_whole(
    on_sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backed_up(on_sqlite.environment, on_sqlite.backups)
    database = Database(on_sqlite.url)
    on_sqlite.add_task(database, on_sqlite.user, "second", script("print(2)"))
    database.close()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("nodepool.stores.files.backup_folder.copy_hashed", full)
        done = run_backup(on_sqlite.environment, on_sqlite.backups)
    assert done.exit_code == 1
    assert "is full" in done.output
    assert BackupFolder(on_sqlite.backups).ids() == [first["id"]]


# -- a restore --------------------------------------------------------------------------------------------
def test_where_a_pool_is_nothing_is_overwritten_without_being_told_so(place: Place) -> None:
    backed_up(place.environment, place.backups)
    done = run_restore(place.environment, place.backups)
    assert done.exit_code == 1
    assert "there is a pool's data already" in done.output


def test_a_pool_that_runs_is_left_alone(place: Place) -> None:
    backed_up(place.environment, place.backups)
    database = Database(place.url)
    with database.engine.connect() as connection:
        connection.execute(select(tasks.c.id)).all()
        _refused(place, "stop the pool first")
    database.close()


def test_a_wrong_key_is_told_before_anything_is_done(place: Place) -> None:
    backed_up(place.environment, place.backups)
    _refused(place, "the storage key is not that of this backup", STORAGE_KEY="another key " * 4)
    shutil.rmtree(place.backups.with_name("backups.keys"))
    _refused(place, "the key of the pool's files is not there", STORAGE_KEY="")


def test_a_cut_file_is_found(place: Place) -> None:
    backed_up(place.environment, place.backups)
    (path,) = (it for it in (place.backups / "objects").glob("??/*") if it.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in run_restore(place.environment, place.backups, "--check").output
    _refused(place, "is damaged in the backup")
    path.unlink()
    _refused(place, "is not in the backup any more")


def test_a_changed_database_is_found(place: Place) -> None:
    made = backed_up(place.environment, place.backups)
    (path,) = (place.backups / "backups" / made["id"]).glob("pool.*")
    path.write_bytes(path.read_bytes()[:-100])
    _refused(place, "damaged")


def test_a_changed_manifest_is_found(on_sqlite: Place) -> None:
    made = backed_up(on_sqlite.environment, on_sqlite.backups)
    path = on_sqlite.backups / "backups" / made["id"] / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"tasks": 1', '"tasks": 2'))
    _refused(on_sqlite, "manifest is damaged")
    path.write_text(whole[: len(whole) // 2])
    _refused(on_sqlite, "manifest is damaged")


def test_a_backup_of_a_newer_version_is_named(on_sqlite: Place) -> None:
    made = backed_up(on_sqlite.environment, on_sqlite.backups)
    path = on_sqlite.backups / "backups" / made["id"] / "manifest.json"
    body = json.loads(path.read_text())
    del body["sha256"]
    manifest = Manifest(**{**body, "missing": (), "revision": "9000"})
    path.write_text(manifest_text(manifest))
    _refused(on_sqlite, "newer version of the pool")


def test_too_little_room_is_told_before_anything_is_written(
    on_sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(on_sqlite.environment, on_sqlite.backups)
    usage = shutil.disk_usage(on_sqlite.storage)
    monkeypatch.setattr(restored_files.shutil, "disk_usage", lambda _path: usage._replace(free=10))
    _refused(on_sqlite, "MiB free, and the backup needs")


def test_a_disk_that_fills_up_meanwhile_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(place.environment, place.backups)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("local_pool.restored_files.copy_hashed", full)
    _refused(place, "is full")


def test_what_cannot_be_exchanged_goes_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backed_up(place.environment, place.backups)
    moved = restored_files.Exchange._move
    count = 0

    def fails_late(self: restored_files.Exchange, source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(16, "Device or resource busy")
        moved(self, source, target)

    monkeypatch.setattr(restored_files.Exchange, "_move", fails_late)
    _refused(place, "nothing was changed")


def test_a_damaged_database_can_be_replaced(on_sqlite: Place, tmp_path: Path) -> None:
    backed_up(on_sqlite.environment, on_sqlite.backups)
    (tmp_path / "users.db").write_bytes(b"no database" * 1000)
    restored(on_sqlite.environment, on_sqlite.backups, "--force")
    assert on_sqlite.names() == ["first"]
    with sqlite3.connect(tmp_path / "users.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_sessions_end_where_the_operator_wants_it(on_sqlite: Place) -> None:
    backed_up(on_sqlite.environment, on_sqlite.backups)
    restored(on_sqlite.environment, on_sqlite.backups, "--force", "--end-sessions")
    database = Database(on_sqlite.url)
    ada = select(users.c.token_generation).where(users.c.username == "ada")
    assert database.read(lambda c: c.execute(ada).scalar_one()) > 10**8
    # Whoever comes now is not taken for somebody of the time that is lost.
    bob = database.write(lambda c: user_store.add(c, NewUser("bob", "x", "user", 50, 0), 2.0))
    theirs = select(users.c.token_generation).where(users.c.id == bob)
    assert database.read(lambda c: c.execute(theirs).scalar_one()) > 10**8
    database.close()


# -- PostgreSQL's programs --------------------------------------------------------------------------------
def test_programs_that_are_not_there_or_too_old_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_tools, "_INSTALLED", tmp_path)
    monkeypatch.setattr(postgres_tools.shutil, "which", lambda _name: None)
    with pytest.raises(Exception, match=r"pg_dump is not installed here.*postgresql-client-17"):
        postgres_tools.find("pg_dump", 17)
    old = tmp_path / "15/bin/pg_dump"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.8 (Debian 15.8-0)'\n")
    old.chmod(0o755)
    with pytest.raises(Exception, match="pg_dump here is of PostgreSQL 15, and 17 or newer is needed"):
        postgres_tools.find("pg_dump", 17)
    assert postgres_tools.find("pg_dump", 15) == str(old)
