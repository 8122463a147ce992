"""Commands that are not the SDK's own, found through entry points: the operator's, and other packages'.

A broken one breaks only itself. This package names the operator's, but only a checkout and the image have
them: elsewhere they are not listed, and who asks for one is told where it is. Knows no command.
"""

from __future__ import annotations

from importlib import metadata, util
from typing import Any

import click

from hivemind.errors import ClientError, ExitCode
from nodepool.starting import DISTRIBUTION

COMMANDS = "hivemind.commands"
LEDGER = "hivemind.ledger"
ADMIN = "hivemind.admin"


class ServerElsewhereError(ClientError):
    """The server's code is not installed here."""

    code = "server_elsewhere"
    exit_code = ExitCode.USAGE


def names(group: str) -> list[str]:
    """Of the commands that may be there."""
    return sorted(name for name, entry in _found(group).items() if not _is_elsewhere(entry))


def load(group: str, name: str) -> click.Command | None:
    """None when there is no such command; one that cannot be loaded says so when it is run."""
    entry = _found(group).get(name)
    if entry is None:
        return None
    if _is_elsewhere(entry):
        return _instead(
            name,
            ServerElsewhereError(
                f"{name!r} is a command of the server, and the server is not in this package",
                hint="it runs from a checkout of the repository, or from the image",
            ),
        )
    try:
        loaded = entry.load()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it must not break the rest
        return _broken(entry, f"{type(error).__name__}: {error}")
    return loaded if isinstance(loaded, click.Command) else _broken(entry, f"{entry.value} is not a command")


def _found(group: str) -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def _is_ours(entry: metadata.EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == DISTRIBUTION


def _is_elsewhere(entry: metadata.EntryPoint) -> bool:
    return _is_ours(entry) and util.find_spec(entry.module.partition(".")[0]) is None


def _broken(entry: metadata.EntryPoint, problem: str) -> click.Command:
    hint = "run `make install` in the checkout" if _is_ours(entry) else ""
    return _instead(
        entry.name, ClientError(f"the command {entry.name!r} cannot be loaded: {problem}", hint=hint)
    )


def _instead(name: str, error: ClientError) -> click.Command:
    def tell(**_: Any) -> None:
        raise error

    return click.Command(
        name,
        callback=tell,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
