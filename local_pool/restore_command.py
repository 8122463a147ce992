"""`hivemind admin restore`: on the pool's own host, with the pool stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import click

from local_pool import backup_keys
from local_pool.in_use import check_unused, gateway_serves
from local_pool.pool_place import PoolPlace, data_dir_option, find_place
from local_pool.restore import BackupSource, BrokerLeft, RestoreDone, has_data, look, restore
from local_pool.restored_files import check_objects
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.stores.files.backup_folder import BackupFolder
from nodepool.stores.redis.client import Client, connect
from nodepool.stores.redis.emptying import empty
from nodepool.stores.redis.pool_mark import PoolMark
from nodepool.stores.sql.usage_check import pool_id_of

_MOST_NAMED = 10
_BROKER_WORDS = {
    BrokerLeft.AWAY: "the broker could not be reached: empty its database (FLUSHDB) before the pool starts",
    BrokerLeft.ANOTHERS: "the broker that REDIS_URL names is another pool's, and was left alone: name "
    "another one, or take it with `hivemind admin broker take`; until then this pool does not start",
}


@click.command("restore")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@data_dir_option
@click.option("--backup", "backup_id", default="", metavar="ID", help="Which backup.  [default: the newest]")
@click.option(
    "--keys-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the keys are.  [default: DIR.keys]",
)
@click.option("--force", is_flag=True, help="Also where a pool's data is: it is put aside, not deleted.")
@click.option("--check", is_flag=True, help="Change nothing: only read all of the backup and compare hashes.")
@click.option("--end-sessions", is_flag=True, help="Everybody has to log in again, agents too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def restore_command(
    directory: Path,
    data_dir: Path | None,
    backup_id: str,
    keys_dir: Path | None,
    *,
    force: bool,
    check: bool,
    end_sessions: bool,
    as_json: bool,
) -> None:
    """Make the backup in DIR the pool of this host. The pool must be stopped, on every host.

    All of it is checked before anything is changed. What ran when the backup was made begins again. Whatever
    was done after the backup is gone: tasks, entries of the ledger, accounts, passwords, blocks.
    """
    place = find_place(data_dir)
    folder = BackupFolder(directory.resolve())
    apart = (keys_dir or backup_keys.default_folder(folder.root)).resolve()
    try:
        with folder.locked():
            source = look(folder, backup_id, place, apart)
            if check:
                _check(source, as_json=as_json)
                return
            with check_unused(place), _broker_of(place) as broker:
                if not force and has_data(place):
                    raise click.ClickException(
                        f"there is a pool's data already ({place.database_text}, {place.storage}): name an "
                        "empty place, or give --force to put it aside"
                    )
                done = restore(source, place, broker.empty, end_sessions=end_sessions)
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    _tell(source, done, as_json=as_json)


def _check(source: BackupSource, *, as_json: bool) -> None:
    wrong = check_objects(source.folder, source.manifest, source.files.values())
    if as_json:
        click.echo(json.dumps({"id": source.manifest.id, "right": not wrong, "damaged": wrong}))
    for name in wrong[:_MOST_NAMED]:
        click.echo(f"damaged or gone: {name}", err=True)
    if wrong:
        raise click.ClickException(f"backup {source.manifest.id} cannot be restored: {len(wrong)} damaged")
    if not as_json:
        click.echo(
            f"backup {source.manifest.id} is whole: {source.manifest.files} files and the database have "
            "their hashes, and the key is theirs"
        )


class _Broker:
    """Of a pool that is stopped."""

    def __init__(self, place: PoolPlace, client: Client) -> None:
        self._place, self._client = place, client
        self._before = pool_id_of(place.database_url)

    def empty(self) -> BrokerLeft:
        """After the restore: what was there is of a time that is lost."""
        mark = PoolMark(self._client)
        try:
            there = mark.read()
            if there and there not in (self._before, pool_id_of(self._place.database_url)):
                return BrokerLeft.ANOTHERS
            empty(self._client)
        except UnavailableError:
            return BrokerLeft.AWAY
        return BrokerLeft.EMPTY


@contextmanager
def _broker_of(place: PoolPlace) -> Iterator[_Broker]:
    """Raises ClickException where a gateway works on it: its pool would lose what it knows."""
    with closing(connect(place.settings)) as client:
        if not place.has_own_broker:
            with suppress(UnavailableError):
                if gateway_serves(PoolMark(client)):
                    raise click.ClickException(
                        "a gateway serves on the broker that REDIS_URL names: stop its pool, or name another "
                        "broker for this one"
                    )
        yield _Broker(place, client)


def _tell(source: BackupSource, done: RestoreDone, *, as_json: bool) -> None:
    manifest = source.manifest
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.made_at))
    if as_json:
        told = {
            "id": manifest.id,
            "backup_made_at": manifest.made_at,
            "tasks": manifest.tasks,
            "files": manifest.files,
            "runs_ended": done.runs_ended,
            "put_aside": done.kept,
            "emptied_broker": done.broker is BrokerLeft.EMPTY,
        }
        click.echo(json.dumps(told))
        return
    click.echo(f"restored backup {manifest.id}: {manifest.tasks} tasks, {manifest.files} files")
    click.echo(f"checked: hashes, keys, files of tasks, revision {manifest.revision}, the ledger")
    click.echo(f"what was done after {moment} is gone: tasks, entries of the ledger, accounts, blocks")
    click.echo(f"{done.runs_ended} runs that went on then begin again, at nobody's cost")
    for path in done.kept:
        click.echo(f"put aside, delete it when all is well: {path}")
    if words := _BROKER_WORDS.get(done.broker):
        click.echo(words, err=True)
    for name in manifest.missing:
        click.echo(f"warning: the pool had lost {name} before the backup", err=True)
