"""Every command and every option of `hivemind` stands in docs/commands.md as the command itself tells it."""

from __future__ import annotations

import click
import pytest

from scripts import commands_table


def test_the_page_has_the_commands_as_they_are() -> None:
    text = commands_table.PART.page.read_text(encoding="utf-8")
    assert commands_table.PART.put_into(text) == text, "run: python -m scripts.commands_table --write"


def test_every_command_and_option_says_what_it_does() -> None:
    silent = [words for words, command in commands_table.commands() if not command.help]
    for words, command in commands_table.commands():
        options = [it for it in command.params if isinstance(it, click.Option)]
        silent += [f"{words} {it.opts[0]}" for it in options if not it.help and not it.hidden]
    assert silent == []


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        commands_table.PART.put_into("# nothing")
