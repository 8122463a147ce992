"""Where a pool of this host has what it keeps: of `hivemind up` in a data directory, else as settings say.

For commands on the pool's own host. Opens nothing and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from local_pool.command import default_data_dir, read_settings
from local_pool.plan import DATABASE_FIELDS, wants_embedded_broker
from nodepool.settings import Settings
from nodepool.stores.sql.database import database_file, shown_url

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The data directory of `hivemind up`; else DATABASE_URL, DB_PATH and TASK_STORAGE_PATH say where, "
    "or the directory that `hivemind up` uses by itself.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlace:
    """`data_dir` is that of `hivemind up`, None for a pool that other programs start."""

    settings: Settings
    data_dir: Path | None
    database_url: str
    storage: Path

    @property
    def database_path(self) -> Path | None:
        """SQLite's file; None where a server has the database."""
        found = database_file(self.database_url)
        return None if found is None else Path(found)

    @property
    def database_text(self) -> str:
        """Where the database is, without a password."""
        return str(self.database_path or shown_url(self.database_url))

    @property
    def secrets(self) -> Path | None:
        return None if self.data_dir is None else self.data_dir / "secrets"

    @property
    def has_own_broker(self) -> bool:
        return self.data_dir is not None and wants_embedded_broker(self.settings)


def find_place(data_dir: Path | None, settings: Settings | None = None) -> PoolPlace:
    """As `hivemind up` would have it, and without a data directory as the parts would."""
    settings = settings or read_settings()
    given = settings.model_fields_set
    if data_dir is None and not DATABASE_FIELDS & given:
        usual = default_data_dir()
        data_dir = usual if (usual / "pool.db").is_file() else None
    if data_dir is None:
        return PoolPlace(
            settings=settings,
            data_dir=None,
            database_url=settings.effective_database_url,
            storage=settings.task_storage_path,
        )
    own_database, own_storage = not DATABASE_FIELDS & given, "task_storage_path" not in given
    return PoolPlace(
        settings=settings,
        data_dir=data_dir,
        database_url=f"sqlite:///{data_dir / 'pool.db'}" if own_database else settings.effective_database_url,
        storage=data_dir / "storage" if own_storage else settings.task_storage_path,
    )


def check_there(place: PoolPlace) -> None:
    """Raises ClickException where SQLite's file is not there: it would be made."""
    path = place.database_path
    if path is not None and not path.is_file():
        raise click.ClickException(
            f"there is no database {str(path)!r}: set DATABASE_URL or DB_PATH as the pool has it, or give "
            "--data-dir of `hivemind up`"
        )
