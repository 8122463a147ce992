"""What callers give, checked before anything is sent. Raises InvalidInputError for every wrong kind of
value."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hivemind import amounts
from hivemind.array_upload import new_job_id
from hivemind.errors import InvalidInputError, RefusedError
from hivemind.functions.outcome import Taking
from hivemind.functions.packing import FunctionWork
from hivemind.job_results import check_template
from hivemind.made import path_of, whole_number
from hivemind.needs import TaskNeeds
from hivemind.pools.options import needs_of
from hivemind.sweeps import Sweep, of_values
from hivemind.uploading import new_task_id
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.ids import check_job_id, check_task_id

Source = str | os.PathLike[str]
IN_MEMORY = "1G"
FILES = "hivemind-results"
path, whole = path_of, whole_number


def task_id(value: Any) -> str:
    return _by(check_task_id, value, "task_id")


def new_or(value: Any) -> str:
    return task_id(value) if value else new_task_id()


def job_id(value: Any) -> str:
    return _by(check_job_id, value, "job_id")


def new_job_or(value: Any) -> str:
    return job_id(value) if value else new_job_id()


def _by(rule: Callable[[str], str], value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be text, not {type(value).__name__}")
    try:
        return rule(value)
    except InvalidError as error:
        raise InvalidInputError(str(error)) from error


def template(value: Any) -> str:
    """Where the files of a job's tasks go: a directory for each."""
    if not isinstance(value, str):
        raise InvalidInputError(
            f"the template must be text, such as 'out/{{index}}', not {type(value).__name__}"
        )
    try:
        check_template(value)
    except RefusedError as error:
        raise InvalidInputError(str(error).removeprefix("--output ")) from error
    return value


def patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidInputError(f"patterns are a list, such as ['*.csv'], not {ascii(value)[:60]}")
    return words(tuple(value))


def warn(told: Iterable[str]) -> None:
    """What the sender is to know of what was sent."""
    for words_ in told:
        warnings.warn(words_, stacklevel=3)


def timeout(value: Any) -> float | None:
    return None if value is None else amounts.seconds_of(value, "timeout")


def taking(files: Any, in_memory: Any) -> Taking:
    return Taking(most_bytes=amounts.bytes_of(in_memory, "in_memory"), files=path(files, "files"))


def submission(
    work: Any, args: Sequence[Any], kwargs: Any, options: Mapping[str, Any]
) -> tuple[Path | FunctionWork, TaskNeeds]:
    """A path with its words, or a function with its arguments."""
    if isinstance(work, str | os.PathLike):
        if kwargs:
            raise InvalidInputError("a path takes words for its entry script, and no keyword arguments")
        return path(work, "the path"), needs_of(options, arguments=words(args))
    if kwargs is not None and not (
        isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)
    ):
        raise InvalidInputError(f"kwargs must be keyword arguments by their names, not {ascii(kwargs)[:60]}")
    needs = needs_for_objects(options)
    return FunctionWork.of_call(work, args, dict(kwargs or {})), needs


def words(args: Sequence[Any]) -> tuple[str, ...]:
    for number, word in enumerate(args, 1):
        if not isinstance(word, str):
            raise InvalidInputError(
                f"argument {number} must be text, not {type(word).__name__}: an entry script is given words"
            )
    return tuple(args)


def items(function: Any, values: Any, options: Mapping[str, Any]) -> tuple[FunctionWork, TaskNeeds]:
    needs = needs_for_objects(options)
    if needs.replicas > 1:
        raise InvalidInputError(
            "replicas are of single tasks: use pool.executor(replicas=…).map, which sends one for each item"
        )
    return FunctionWork.of_map(function, values), needs


def sweep(value: Any) -> Sweep:
    """A Sweep, a number of tasks, a range of indices, or values by their names (every combination)."""
    if isinstance(value, Sweep):
        return value
    if isinstance(value, range):
        return Sweep((), tuple((index, ()) for index in value))
    if isinstance(value, Mapping):
        return of_values(value)
    return Sweep((), tuple((index, ()) for index in range(whole(value, "the number of tasks", 1))))


def needs_for_objects(options: Mapping[str, Any]) -> TaskNeeds:
    needs = needs_of(options)
    if needs.take_pending:
        raise InvalidInputError(
            "take_pending takes a result unchecked, and one that is not checked is not unpickled"
        )
    return needs
