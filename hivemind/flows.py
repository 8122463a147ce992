"""Flows: steps that come after each other, from a file or made in Python, checked before anything is sent.

Knows files and rules; knows no connection and no terminal.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hivemind import env_file, sweeps
from hivemind.amounts import mebibytes_of
from hivemind.errors import RefusedError
from hivemind.needs import TaskNeeds
from hivemind.sweeps import Sweep
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.notifications.targets import wanted_targets
from nodepool.domain.tasks.arrays import ArrayInputs, expand, item_line
from nodepool.domain.tasks.flows import StepOrder, check_steps, check_tasks, result_values, used_results
from nodepool.domain.tasks.labels import check_labels, check_name
from nodepool.domain.tasks.run_inputs import RunInputs

_MAX_BYTES = 1 << 20
_FLOW_KEYS = ("name", "labels", "max_cpt", "notify", "steps")
_OWN_KEYS = (
    "memory",
    "path",
    "needs",
    "needs_any",
    "array",
    "each_line",
    "matrix",
    "env",
    "env_file",
    "include",
)
_IN_OTHER_WORDS = ("environment", "memory_mb", "replicas")
_NEEDS_KEYS = tuple(each.name for each in fields(TaskNeeds) if each.name not in _IN_OTHER_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStep:
    """A task, or with a sweep an array. `{step.result}` in arguments and in values of the environment is the
    folder with the result files of a step that it needs; an array's are in folders named by their indices."""

    name: str
    source: Path
    task: TaskNeeds = TaskNeeds()  # noqa: RUF009 - a frozen value
    sweep: Sweep | None = None
    needs: tuple[str, ...] = ()
    needs_any: tuple[str, ...] = ()
    include: tuple[str, ...] = ()  # patterns of what is packed although it would be left out

    @property
    def order(self) -> StepOrder:
        return StepOrder(name=self.name, needs=self.needs, needs_any=self.needs_any)

    @property
    def tasks(self) -> int:
        return len(self.sweep) if self.sweep else 1

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.task.arguments, *self.task.environment.values())

    def check(self) -> bytes:
        """That every task can be given its own. What is sent of an array; raises InvalidInputError."""
        inputs = RunInputs(tuple(self.task.arguments), dict(self.task.environment))
        names = self.sweep.names if self.sweep else ()
        items = self.sweep.items() if self.sweep else b""
        results = result_values(used_results(self.texts, self.order))
        expand(items or item_line(0).encode(), ArrayInputs.of(names, inputs, results))
        return items


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlow:
    """Raises RefusedError for what is no flow: a circle, a step that there is not."""

    steps: tuple[FlowStep, ...]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_cpt: int = 0
    notify: tuple[str, ...] = ()  # targets that are told when all of it has ended

    def __post_init__(self) -> None:
        try:
            check_steps([step.order for step in self.steps])
            check_tasks({step.name: step.tasks for step in self.steps})
            check_name(self.name)
            check_labels(self.labels)
            wanted_targets(self.notify)
        except InvalidInputError as error:
            raise RefusedError(str(error)) from error
        for step in self.steps:
            if step.task.replicas > 1:
                raise RefusedError(f"step {step.name!r}: tasks of a flow run once each, without replicas")
            if step.task.notify and step.sweep:
                raise RefusedError(
                    f"step {step.name!r} is an array, whose tasks are not told of one by one: give notify to "
                    "the flow, or to a step that is one task"
                )

    @property
    def tasks(self) -> int:
        return sum(step.tasks for step in self.steps)

    def in_order(self) -> list[FlowStep]:
        """Each after those that it needs; otherwise as they are written."""
        left, found = list(self.steps), list[FlowStep]()
        while left:
            done = {step.name for step in found}
            step = next(each for each in left if done.issuperset(each.order.all_needs))
            left.remove(step)
            found.append(step)
        return found

    def check(self) -> list[bytes]:
        """What is sent of each step's array. Raises RefusedError."""
        found = []
        for step in self.steps:
            try:
                found.append(step.check())
            except InvalidInputError as error:
                raise RefusedError(f"step {step.name!r}: {error}") from error
        return found


def read_flow(path: Path, callers: Mapping[str, str] | None = None) -> TaskFlow:
    """A flow.toml; paths in it are beside it. `callers`: the environment that `env = ["NAME"]` is taken from.

    Raises RefusedError.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise RefusedError(f"{path} has more than {_MAX_BYTES >> 20} MiB, and is no flow")
        told = tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RefusedError(f"{path} is no TOML: {error}") from error
    try:
        _check_keys(told, _FLOW_KEYS, "a flow")
        steps = _table(told.get("steps", {}), "steps")
        made = (_step(name, _table(step, name), path.parent, callers or {}) for name, step in steps.items())
        return TaskFlow(
            steps=tuple(made),
            name=_text(told.get("name", ""), "name"),
            labels=_texts_of(told.get("labels", {}), "labels"),
            max_cpt=_number(told.get("max_cpt", 0), "max_cpt"),
            notify=_words(told.get("notify", []), "notify"),
        )
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}") from error


def _step(name: str, told: Mapping[str, Any], folder: Path, callers: Mapping[str, str]) -> FlowStep:
    _check_keys(told, (*_OWN_KEYS, *_NEEDS_KEYS), f"step {name!r}")
    if "path" not in told:
        raise RefusedError(f"step {name!r} has no path: name the directory, ZIP or .py file that it runs")
    try:
        asked = {key: _fitting(key, told[key]) for key in _NEEDS_KEYS if key in told}
        if "memory" in told:
            asked["memory_mb"] = mebibytes_of(told["memory"], "memory")
        step = FlowStep(
            name=name,
            source=folder / _text(told["path"], "path"),
            task=TaskNeeds(**asked, environment=_environment(told, folder, callers)),
            sweep=_sweep(told, folder),
            needs=_words(told.get("needs", []), "needs"),
            needs_any=_words(told.get("needs_any", []), "needs_any"),
            include=_words(told.get("include", []), "include"),
        )
    except RefusedError as error:
        raise RefusedError(f"step {name!r}: {error}") from error
    return step


def _environment(told: Mapping[str, Any], folder: Path, callers: Mapping[str, str]) -> dict[str, str]:
    """What `env` says wins over files."""
    found: dict[str, str] = {}
    for file in _words(told.get("env_file", []), "env_file"):
        found |= env_file.parse(env_file.read(folder / file), callers, file).variables
    own = told.get("env", {})
    if isinstance(own, list):
        for name in _words(own, "env"):
            if name not in callers:
                raise RefusedError(f"env names {name}, and your environment has no {name}")
            found[name] = callers[name]
        return found
    return found | _texts_of(own, "env")


def _sweep(told: Mapping[str, Any], folder: Path) -> Sweep | None:
    given = [key for key in ("array", "each_line", "matrix") if key in told]
    if len(given) > 1:
        raise RefusedError(f"{given[0]} and {given[1]} each say what its tasks are: take one of them")
    if not given:
        return None
    if given[0] == "array":
        return sweeps.of_range(_text(told["array"], "array"))
    if given[0] == "each_line":
        return sweeps.of_lines(folder / _text(told["each_line"], "each_line"))
    matrix = told["matrix"]
    if isinstance(matrix, str):
        return sweeps.of_matrix(sweeps.parts(matrix))
    parts = _table(matrix, "matrix")
    return sweeps.combined(parts, [_matrix_values(values) for values in parts.values()])


def _matrix_values(values: Any) -> list[str]:
    """Those of a list as they are; a text is spread as on the command line."""
    return [*map(_plain, values)] if isinstance(values, list) else sweeps.spread(_plain(values))


def _fitting(key: str, value: Any) -> Any:
    """A value of TOML as `TaskNeeds` has it."""
    default = getattr(TaskNeeds(), key)
    if isinstance(default, tuple):
        return _words(value, key)
    if isinstance(default, Mapping):
        return _texts_of(value, key)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise RefusedError(f"{key} is true or false, not {value!r}")
        return value
    if isinstance(default, str):
        return _text(value, key)
    return _number(value, key)


def _check_keys(told: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in told:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            guess = f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"
            raise RefusedError(f"{where} has no {key!r}{guess}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(f"{where} must be a table, not {value!r}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RefusedError(f"{where} must be text in quotes, not {value!r}")
    return value


def _number(value: Any, where: str) -> int:
    if type(value) is not int:
        raise RefusedError(f"{where} must be a whole number, not {value!r}")
    return value


def _plain(value: Any) -> str:
    """A text or a number, as an argument: numbers as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RefusedError(f"{value!r} is neither a text nor a number")
    return str(value)


def _words(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise RefusedError(f"{where} must be a list, not {value!r}")
    return tuple(map(_plain, value))


def _texts_of(value: Any, where: str) -> dict[str, str]:
    return {name: _plain(text) for name, text in _table(value, where).items()}
