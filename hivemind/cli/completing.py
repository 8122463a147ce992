"""What a shell offers after TAB, and `hivemind completion`, which prints the shell's side of it.

A pool that is slow, away or refuses offers nothing: a prompt is no place for errors. Nothing heavy is
imported before a word is asked for that only the pool knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from hivemind.cli.app import App
from nodepool.domain import regions


class _Bash(BashComplete):
    """bash cuts words at colons, as in an image's name or a gateway's address, and takes for the word that is
    begun what follows the last colon."""

    _cut = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, begun = super().get_completion_args()
        words: list[str] = []
        is_going_on = False
        for word in [*args, begun]:
            is_colon = word == ":"
            if words and (is_going_on or is_colon):
                words[-1] += word
            else:
                words.append(word)
            is_going_on = is_colon
        whole = words.pop()
        self._cut = whole[: whole.rfind(":") + 1]
        return words, whole

    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(
            CompletionItem(item.value.removeprefix(self._cut), type=item.type, help=item.help)
        )


add_completion_class(_Bash)
_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}
VARIABLE = "_HIVEMIND_COMPLETE"
# Someone waits at the prompt.
_PATIENCE_SECONDS = 2.0
_MOST = 200


def task_ids(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Of one's own tasks, the newest first, with their states."""
    chosen = set(context.params.get("task_ids") or ())
    found = _asked(context, lambda pool: [(task.task_id, task.status) for task in pool.list()])
    return _beginning(begun, (each for each in found if each[0] not in chosen))


def task_and_job_ids(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [*task_ids(context, parameter, begun), *job_ids(context, parameter, begun)][:_MOST]


def job_ids(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    found = _asked(
        context, lambda pool: [(job.job_id, f"{job.tasks} tasks") for job in islice(pool.jobs(), _MOST)]
    )
    return _beginning(begun, found)


def secret_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    chosen = {*(context.params.get("names") or ()), *(context.params.get("words") or ())}
    found = _asked(context, lambda pool: [(secret.name, "") for secret in pool.secrets()])
    return _beginning(begun, (each for each in found if each[0] not in chosen))


def target_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    chosen = {*(context.params.get("names") or ()), *(context.params.get("notify") or ())}
    found = _asked(context, lambda pool: [(each.name, each.url) for each in pool.notify_targets()])
    return _beginning(begun, (each for each in found if each[0] not in chosen))


def node_ids(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    found = _asked(context, lambda pool: [(node.node_id, str(node.status)) for node in pool.nodes()])
    return _beginning(begun, found)


def image_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Those that the pool allows; which node has which, only its engine knows."""
    return _beginning(begun, _asked(context, lambda pool: [(image, "") for image in pool.images()]))


def region_words(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _beginning(begun.casefold(), ((region, "") for region in regions.TASK_REGIONS))


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, ids, nodes, regions and images.

    \b
    bash: eval "$(hivemind completion bash)"    in ~/.bashrc
    zsh:  eval "$(hivemind completion zsh)"     in ~/.zshrc, after compinit
    fish: hivemind completion fish > ~/.config/fish/completions/hivemind.fish
    """
    root = click.get_current_context().find_root().command
    click.echo(_SHELLS[shell](root, {}, "hivemind", VARIABLE).source())


def _beginning(begun: str, words: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    # A shell takes them apart by lines and blanks: what has such is no name of ours.
    fitting = [
        CompletionItem(word, help=told)
        for word, told in words
        if word.startswith(begun) and word.isprintable() and " " not in word
    ]
    return fitting[:_MOST]


def _asked(context: click.Context, question: Any) -> list[tuple[str, str]]:
    """The answer of the pool of the profile; nothing whatever goes wrong."""
    app = context.find_object(App) or App(environment=os.environ)
    with suppress(Exception):
        from hivemind.channel import RetryPolicy  # noqa: PLC0415 - a shell asks for commands far more often
        from hivemind.cli.connect import connect  # noqa: PLC0415

        once = RetryPolicy(patience_seconds=0, attempts=1)
        with connect(app, retry=once, deadline_seconds=_PATIENCE_SECONDS) as pool:
            return list(question(pool))
    return []
