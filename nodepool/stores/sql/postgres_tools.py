"""PostgreSQL's own programs: pg_dump and pg_restore, of a version that fits the server.

Of several that are installed the oldest that fits is used: a newer one may write what an older server does
not know. The password goes by the environment, which only the program's user can read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from sqlalchemy.engine import make_url

from nodepool.domain.backups.manifest import BackupError

_INSTALLED = Path("/usr/lib/postgresql")
_LOCK_WAIT = "30s"
_LINES = 3
OLD_SCHEMA = "before_restore_"


def find(program: str, at_least: int) -> str:
    """The program's path. Raises BackupError where none is new enough for that major version."""
    paths = [*_INSTALLED.glob(f"*/bin/{program}"), *map(Path, filter(None, [shutil.which(program)]))]
    found = sorted((major_of(path), str(path)) for path in paths)
    fitting = [path for major, path in found if major >= at_least]
    if fitting:
        return fitting[0]
    if found:
        raise BackupError(
            f"{program} here is of PostgreSQL {found[-1][0]}, and {at_least} or newer is needed: install its "
            f"client programs (Debian: postgresql-client-{at_least})"
        )
    raise BackupError(
        f"{program} is not installed here: install PostgreSQL's client programs "
        f"(Debian: postgresql-client-{at_least})"
    )


def major_of(program: Path) -> int:
    """0 where it does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r"\b(\d+)(?:\.\d+|devel|beta|rc)", said.stdout)
    return int(found[1]) if found else 0


def dump(url: str, server: int, snapshot: str, target: Path) -> None:
    """What the snapshot sees, in PostgreSQL's custom format."""
    program = find("pg_dump", server)
    _run(
        url,
        [
            program, "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}",
            f"--lock-wait-timeout={_LOCK_WAIT}", f"--exclude-schema={OLD_SCHEMA}*", f"--file={target}",
        ],
        "the database could not be dumped",
    )  # fmt: skip
    target.chmod(0o600)


def restore(url: str, server: int, source: Path) -> None:
    """All of it in one transaction: it is there as a whole or not at all."""
    program = find("pg_restore", server)
    _run(
        url,
        [program, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(source)],
        "the database could not be restored",
    )


def _run(url: str, command: list[str], problem: str) -> None:
    parsed = make_url(url).set(drivername="postgresql")
    environment = dict(os.environ)
    if parsed.password:
        environment["PGPASSWORD"] = str(parsed.password)
    place = parsed.set(password=None).render_as_string(hide_password=False)
    where = "--dbname"
    done = subprocess.run(
        [*command, where, place], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[:_LINES])
        raise BackupError(f"{problem}: {said or f'{Path(command[0]).name} ended with {done.returncode}'}")
