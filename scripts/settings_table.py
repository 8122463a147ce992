"""settings_table.py [--write]: the table of docs/settings.md, made from nodepool.settings.Settings.

Without --write it prints the table and says what differs in docs/settings.md and .env.example; the exit
status is 1 when something does. .env.example has hand-written parts, so it is checked and not written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from nodepool.settings import Settings
from scripts.generated_part import ROOT, GeneratedPart


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as people write it; `default` is empty where the pool has no value of its own."""

    name: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    return [
        Setting(name.upper(), _written(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _written(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    # A path loses the ./ that says where it is.
    if isinstance(default, Path) and not default.is_absolute():
        return f"./{default}"
    return str(default)


def table() -> str:
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for setting in settings():
        default = f"`{setting.default}`" if setting.default else ""
        rows.append(f"| `{setting.name}` | {default} | {setting.meaning} |")
    return "\n".join(rows)


PART = GeneratedPart("settings", table)


def env_problems(text: str) -> list[str]:
    """What .env.example lacks: every setting stands there once, below its meaning, with its default."""
    lines = text.splitlines()
    problems = []
    for setting in settings():
        places = [number for number, line in enumerate(lines) if line.startswith(f"#{setting.name}=")]
        if len(places) != 1:
            problems.append(f".env.example has {setting.name} {len(places)} times, not once")
        elif lines[places[0]] != f"#{setting.name}={setting.default}":
            problems.append(f".env.example should say #{setting.name}={setting.default}")
        elif lines[places[0] - 1] != f"# {setting.meaning}":
            problems.append(f".env.example should explain {setting.name} with: # {setting.meaning}")
    return problems


def main(arguments: list[str]) -> int:
    text = PART.page.read_text(encoding="utf-8")
    wanted = PART.put_into(text)
    problems = env_problems((ROOT / ".env.example").read_text(encoding="utf-8"))
    if "--write" in arguments:
        PART.page.write_text(wanted, encoding="utf-8")
    else:
        print(table())
        if text != wanted:
            problems.append(f"the table of docs/settings.md is old; {PART.remedy}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
