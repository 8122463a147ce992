"""commands_table.py [--write]: docs/commands.md, made from the commands of `hivemind` themselves.

Without --write it prints the page's part; the exit status is 1 when docs/commands.md differs.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from unittest import mock

import click

from hivemind.cli import plugins
from hivemind.cli.entry import cli
from scripts.generated_part import ROOT, GeneratedPart


def commands() -> list[tuple[str, click.Command]]:
    """Each with its words, such as `hivemind job ls`. Those of other packages are left out."""
    with mock.patch.object(plugins, "_found", _declared):
        return list(_below("hivemind", cli, click.Context(cli, info_name="hivemind")))


def _declared(group: str) -> dict[str, EntryPoint]:
    """As pyproject.toml has them: an environment has those of the day on which it was made."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: EntryPoint(name, value, group) for name, value in project["entry-points"][group].items()}


def _below(words: str, command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _below(
                    f"{words} {name}", found, click.Context(found, info_name=name, parent=context)
                )


def made() -> str:
    return "\n\n".join(_section(words, command) for words, command in commands())


def _section(words: str, command: click.Command) -> str:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"## {words}", f"`{words} {usage}`", _prose(command.help or command.short_help or "")]
    rows = [
        _row(each, context) for each in command.params if isinstance(each, click.Option) and not each.hidden
    ]
    if rows:
        parts.append("\n".join(["| option | what it does |", "|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part)


def _row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    said, meaning = record if record else (", ".join(option.opts), option.help or "")
    return f"| `{_cell(said)}` | {_cell(meaning)} |"


def _prose(text: str) -> str:
    """A help text as Markdown: what click shows as it stands is code."""
    blocks = []
    for block in text.split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if lines[:1] == ["\b"]:
            blocks.append("```\n" + "\n".join(lines[1:]) + "\n```")
        else:
            blocks.append(" ".join(lines))
    return "\n\n".join(blocks)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PART = GeneratedPart("commands", made)


if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
