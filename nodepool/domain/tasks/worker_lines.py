"""The lines that existing workers send of a run: whole, with their time, and only of its output.

Pure.
"""

from __future__ import annotations

import re

# Every few seconds, of the worker's whole machine.
_TELEMETRY = re.compile(r"^[ \t]*RESOURCE_USAGE:[ \t]*\{.*\}[ \t]*(?:\r?\n|\r|\Z)", re.MULTILINE)


def without_telemetry(text: str) -> str:
    """The text without lines `RESOURCE_USAGE: {…}`."""
    return _TELEMETRY.sub("", text) if "RESOURCE_USAGE:" in text else text


def whole_lines(text: str) -> str:
    """Workers cut the end of the last line off."""
    return text if not text or text.endswith("\n") else f"{text}\n"


def after_time(text: str, time: str) -> str:
    """Each line after its time; as it is where there is none."""
    if not time:
        return text
    return "".join(f"{time} {line}" for line in text.splitlines(keepends=True))
