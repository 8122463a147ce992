"""Arguments and values that a shell, a parser of options or an encoding would change, and a script that tells
what it was given."""

from __future__ import annotations

import json

ODD_WORDS = (
    "--lr=0.1",
    "-c",
    "",
    " two  words ",
    "line\nbreak\r\n",
    "$HOME `id` $(id); rm -rf . && *",
    "'\"\\",
    "\x01\x1b[31m\x7f",
    "火鍋 🍲 \u202e\u2028",
    "--",
    "key=value=",
)
ODD_VARIABLES = {f"ODD_{number}": word for number, word in enumerate(ODD_WORDS)}
# The same as two that a run is given in different ways.
ODD_SECRETS = dict(list(ODD_VARIABLES.items())[::2])
ODD_ENVIRONMENT = {name: word for name, word in ODD_VARIABLES.items() if name not in ODD_SECRETS}
TELL = """
import json, os, sys
print(json.dumps([sys.argv[1:], {name: os.environ[name] for name in os.environ if name.startswith("ODD_")}]))
"""
# `sh` gives its words on to a program of the same package.
TELLING_PACKAGE = {"run.sh": 'exec python3 tell.py "$@"\n', "tell.py": TELL}


def told(output: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arguments and variables that the script has told."""
    arguments, variables = json.loads(output)
    return tuple(arguments), variables
