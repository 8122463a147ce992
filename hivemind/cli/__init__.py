"""The `hivemind` command: one file per noun, each loaded only when one of its commands is run."""

from hivemind.cli.entry import main

__all__ = ["main"]
