"""One script for many in one round trip; the library would ask the server first whether it has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

# Keys and arguments of a call.
Call = tuple[Sequence[str], Sequence[Any]]


def run_all(client: redis.Redis, script: Script, calls: Sequence[Call]) -> list[Any]:
    """The answers, in the order of the calls. Raises what the library does, the first error of any."""
    answers = _send(client, script, calls)
    missed = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if missed:
        # A server that has begun anew, or that somebody told to forget.
        client.script_load(script.script)
        again = _send(client, script, [calls[index] for index in missed])
        for index, answer in zip(missed, again, strict=True):
            answers[index] = answer
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _send(client: redis.Redis, script: Script, calls: Sequence[Call]) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for keys, arguments in calls:
            pipe.evalsha(script.sha, len(keys), *keys, *arguments)
        return list(pipe.execute(raise_on_error=False)) if calls else []
