"""What a mail says: its subject and its text, made of the same JSON that a webhook is sent. Pure.

Whatever would end a line is shown as a blank: no word of anybody can begin a header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nodepool.domain.safe_text import harmless

_MAX_SUBJECT = 200
_MOMENTS = frozenset({"created_at", "started_at", "finished_at"})
_ROWS = {
    "state": "state",
    "reason": "reason",
    "exit_code": "exit code",
    "tasks": "tasks",
    "counts": "of these",
    "node": "node",
    "attempts": "attempts",
    "created_at": "sent at",
    "started_at": "began at",
    "finished_at": "ended at",
    "paid_cpt": "CPT paid",
    "job_id": "job",
    "resubmit_of": "again",
    "labels": "labels",
}


@dataclass(frozen=True, slots=True)
class Letter:
    subject: str
    text: str


def letter_of(body: str, moment: Callable[[float], str], code: str = "") -> Letter:
    """`moment`: Unix seconds as people read them. `code`: what confirms the address, of a mail that brings
    one."""
    event = json.loads(body)
    data: Mapping[str, Any] = event["data"]
    if event["type"] == "code":
        return _of_code(data, code)
    if event["type"] == "test":
        return Letter(
            "HiveMind: a test",
            f"User {harmless(data['user'])} of a HiveMind pool has sent a test to this address, which is "
            f"target {harmless(data['target'])}.\n",
        )
    what, own_id = ("job", data["job_id"]) if event["type"] == "job.ended" else ("task", data["task_id"])
    named = f"{data['name']} ({own_id})" if data["name"] else own_id
    subject = f"{data['state']}: {what} {named}"
    rows = [f"{what} {named} has ended.", ""]
    rows += [
        f"{title:<11} {moment(data[key]) if key in _MOMENTS else _plain(data[key])}"
        for key, title in _ROWS.items()
        if data.get(key) not in (None, "", {}) and not (key == "job_id" and what == "job")
    ]
    command = f"hivemind job status {own_id}" if what == "job" else f"hivemind status {own_id}"
    text = "\n".join([*map(harmless, rows), "", f"{harmless(command)} has the rest.", ""])
    return Letter(harmless(subject)[:_MAX_SUBJECT], text)


def _of_code(data: Mapping[str, Any], code: str) -> Letter:
    target, user = harmless(data["target"]), harmless(data["user"])
    return Letter(
        "HiveMind: confirm this address",
        f"User {user} of a HiveMind pool asks to be told at this address when tasks end.\n\n"
        f"Was it you? Then confirm it:\n\n    hivemind notify confirm {target} {code}\n\n"
        "If not, there is nothing to do: without the code nothing more is sent here.\n",
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {told}" for key, told in value.items())
    return str(value)
