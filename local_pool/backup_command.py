"""`hivemind admin backup`: on the pool's own host, while the pool works."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from local_pool import backup_keys
from local_pool.backup import Made, make
from local_pool.pool_place import check_there, data_dir_option, find_place
from nodepool.domain.errors import NodePoolError
from nodepool.stores.files.backup_folder import BackupFolder

_MIB = 1 << 20


@click.command("backup")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@data_dir_option
@click.option(
    "--keys-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the keys go, apart from the rest.  [default: DIR.keys]",
)
@click.option("--no-keys", is_flag=True, help="Leave the keys out: you have them elsewhere.")
@click.option("--keep", type=click.IntRange(0), default=0, help="Delete all but the newest so many; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def backup_command(
    directory: Path, data_dir: Path | None, keys_dir: Path | None, *, no_keys: bool, keep: int, as_json: bool
) -> None:
    """Back up database, packages and results into DIR, and the keys beside it. The pool goes on meanwhile.

    DIR may have earlier backups: what these have is not copied again. A backup that was broken off is none.
    """
    place = find_place(data_dir)
    check_there(place)
    folder = BackupFolder(directory.resolve())
    apart = keys_dir or backup_keys.default_folder(folder.root)
    try:
        keys = backup_keys.of_pool(place)
        if not no_keys and apart.resolve().is_relative_to(folder.root):
            raise click.ClickException(f"the keys must not be inside {folder.root}: {backup_keys.WHY_APART}")
        with folder.locked():
            made = make(place, folder, keys, None if no_keys else apart, keep, time.time())
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    _tell(made, folder, as_json=as_json)


def _tell(made: Made, folder: BackupFolder, *, as_json: bool) -> None:
    manifest, keys = made.manifest, made.keys
    if as_json:
        told = {
            "id": manifest.id,
            "directory": str(folder.root),
            "keys": str(keys or ""),
            "revision": manifest.revision,
            "tasks": manifest.tasks,
            "files": manifest.files,
            "file_bytes": manifest.file_bytes,
            "copied_files": made.copied,
            "copied_bytes": made.copied_bytes,
            "missing_files": list(manifest.missing),
            "ledger_right": manifest.ledger_right,
            "deleted": made.deleted,
        }
        click.echo(json.dumps(told))
        return
    click.echo(f"backup {manifest.id} in {folder.root}")
    click.echo(
        f"{manifest.tasks} tasks, {manifest.ledger_entries} entries of the ledger, {manifest.files} files "
        f"with {manifest.file_bytes / _MIB:.1f} MiB, of which {made.copied} were copied now"
    )
    if keys is not None:
        click.echo(f"keys in {keys}: {backup_keys.WHY_APART}")
    else:
        click.echo("the keys are not in it: without them nothing of the files can be read again")
    for deleted in made.deleted:
        click.echo(f"deleted {deleted}")
    for name in manifest.missing:
        click.echo(f"warning: the pool has lost {name}", err=True)
    for problem in made.ledger_problems:
        click.echo(f"warning: the ledger is NOT right: {problem}", err=True)
