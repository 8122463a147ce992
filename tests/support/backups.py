"""`hivemind admin backup` and `restore` as tests call them: in this process, with a pool's environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from local_pool.backup_command import backup_command
from local_pool.restore_command import restore_command


def run_backup(environment: Mapping[str, str], *arguments: str | Path) -> Result:
    return CliRunner().invoke(backup_command, [str(it) for it in arguments], env=dict(environment))


def run_restore(environment: Mapping[str, str], *arguments: str | Path) -> Result:
    return CliRunner().invoke(restore_command, [str(it) for it in arguments], env=dict(environment))


def backed_up(environment: Mapping[str, str], *arguments: str | Path) -> dict[str, Any]:
    done = run_backup(environment, *arguments, "--json")
    assert done.exit_code == 0, done.output + repr(done.exception)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def restored(environment: Mapping[str, str], *arguments: str | Path) -> dict[str, Any]:
    done = run_restore(environment, *arguments, "--json")
    assert done.exit_code == 0, done.output + repr(done.exception)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
