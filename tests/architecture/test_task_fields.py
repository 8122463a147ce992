"""A field of a task is in all its places, and a sentence names the place that was forgotten.

CONTRIBUTING.md has the same list as a checklist. What is not in a place stands below, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.context import Gateway
from gateway.usecases.again import READ_FROM_ROW, request_of_row, with_changes
from gateway.usecases.repeated_upload import SAME_ON_REPEAT
from gateway.usecases.submit_task import requested_task
from hivemind.cli.submit import submit
from hivemind.models import TaskInfo
from hivemind.needs import TaskNeeds, needs_to_wire
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.sql.replicas import COPIED_TO_RUNS
from nodepool.stores.sql.tables import tasks
from tests.support.environment import ROOT

# The upload itself, and not a wish: the client sends it by itself.
TRANSPORT = {
    "task_id": "the name of the upload",
    "task_zip": "the package",
    "user_id": "ignored: the owner is who the token says",
    "package_bytes": "told before the package comes",
    "package_sha256": "told before the package comes",
}
# Columns of another name than the field's.
COLUMN_OF = {"task_id": "id", "task_zip": "package_sha256", "location": "region"}
NO_COLUMN = {"user_id": "ignored: the owner is who the token says"}
NOT_COMPARED = {
    "user_id": "ignored: the owner is who the token says",
    "task_id": "it is what the earlier upload is found by",
    "package_bytes": "the SHA-256 of the package says it",
}
NOT_COPIED = {
    "user_id": "ignored: a run belongs to the owner of its task",
    "task_id": "a run has an id of its own",
    "replicas": "a run is one run",
    "name": "people see the task, and none of its runs",
    "labels": "people see the task, and none of its runs",
    "after": "runs are there when their task waits for nothing but nodes",
    "after_any": "runs are there when their task waits for nothing but nodes",
    "notify": "the end of the task is told, and of none of its runs",
}
# Sent by the owner and read back nowhere since the first version. A new field is no such case.
_NOT_READ_BACK = "an old wish that TaskDetail has no place for; the owner has sent it"
NOT_SHOWN = {
    "memory_gb": _NOT_READ_BACK,
    "cpu_score": _NOT_READ_BACK,
    "gpu_score": _NOT_READ_BACK,
    "gpu_memory_gb": _NOT_READ_BACK,
    "gpu_name": _NOT_READ_BACK,
    "location": "TaskDetail.queue has the region",
    "image": _NOT_READ_BACK,
    "network": _NOT_READ_BACK,
    "compare_outputs": "the digests that it leads to are shown",
}
OPTION_OF = {
    "compare_outputs": "--compare",
    "environment": "--env",
    "backoff_seconds": "--backoff",
    "labels": "--label",
    "memory_mb": "--memory",
    "arguments": "arguments",
    "secrets": "--secret",
    "secrets_on_low_trust": "--secret-on-low-trust",
}
# What stands there instead of the option.
README_WORD_OF = {"arguments": "-- ARGS…"}
# A value that a pool takes and that is not the field's default.
SAMPLES: dict[str, Any] = {
    "location": "asia",
    "min_trust": "low",
    "location_mode": "prefer",
    "image": "other:1",
    "network": True,
    "compare_outputs": ["out/*.csv"],
    "package_sha256": "ab" * 32,
    "take_pending": True,
    "exclusive": True,
    "fresh": True,
    "arguments": ["--lr", "0.1"],
    "environment": {"LR": "0.1"},
    "labels": {"sweep": "first"},
    "secrets": ["TOKEN", "DB=PGPASSWORD"],
    "secrets_on_low_trust": True,
    "retry_on": [75, 137],
    "after": ["first"],
    "after_any": ["first"],
    "notify": ["phone"],
}
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-TW.md")}
SETTINGS = Settings(_env_file=None, allowed_images="other:1", allow_task_network=True)

FIELDS = tuple(field.name for field in pb.UploadTaskRequest.DESCRIPTOR.fields)


def problems_of(names: Iterable[str]) -> list[str]:
    """One sentence for each place that lacks one of these fields of UploadTaskRequest."""
    return [f"UploadTaskRequest.{name} {lack}" for name in names for lack in _lacks(name)]


def _lacks(name: str) -> Iterator[str]:
    column = COLUMN_OF.get(name, name)
    if name not in NO_COLUMN and column not in tasks.c:
        yield f"has no column {column} in nodepool/stores/sql/tables.py: add it to tasks, with a migration"
    if name not in NOT_COMPARED and column not in SAME_ON_REPEAT:
        yield "is not compared on a repeated upload: see SAME_ON_REPEAT in gateway/usecases/submit_task.py"
    if name not in NOT_COPIED and column not in COPIED_TO_RUNS:
        yield "is not copied to a task's runs: see COPIED_TO_RUNS in nodepool/stores/sql/replicas.py"
    if name not in TRANSPORT:
        if name not in READ_FROM_ROW:
            yield "is lost when a task is done again: add it to READ_FROM_ROW in gateway/usecases/again.py"
        yield from _lacks_for_people(name)


def _lacks_for_people(name: str) -> Iterator[str]:
    option = OPTION_OF.get(name, "--" + name.replace("_", "-"))
    if name not in NOT_SHOWN and name not in pb.TaskDetail.DESCRIPTOR.fields_by_name:
        yield "is not shown: add it to TaskDetail of proto/nodepool.proto and to gateway/messages.py"
    if name not in NOT_SHOWN and name not in {field.name for field in fields(TaskInfo)}:
        yield "is not told by the SDK: add it to TaskInfo of hivemind/models.py"
    if name not in {field.name for field in fields(TaskNeeds)}:
        yield "cannot be asked for: add it to TaskNeeds of hivemind/models.py"
    if option not in {known for parameter in submit.params for known in parameter.opts}:
        yield f"has no option {option}: add it to hivemind/cli/submit.py"
    for file, text in READMES.items():
        word = README_WORD_OF.get(name, option)
        if f"`{word}`" not in text:
            yield f"is not in {file}: add `{word}` to its table of what a task asks for"


def test_every_field_of_a_task_is_in_all_its_places() -> None:
    assert problems_of(FIELDS) == []


def test_a_field_that_is_nowhere_is_told_with_each_place_that_lacks_it() -> None:
    told = "\n".join(problems_of(["deadline"]))
    for place in ("tables.py", "SAME_ON_REPEAT", "COPIED_TO_RUNS", "READ_FROM_ROW", "TaskDetail", "TaskInfo",
                  "TaskNeeds", "--deadline", "README.md", "README.zh-TW.md"):  # fmt: skip
        assert place in told


def _sample(name: str) -> Any:
    if name in SAMPLES:
        return SAMPLES[name]
    is_text = isinstance(getattr(pb.UploadTaskRequest(), name), str)
    return "sample" if is_text else 2


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in TRANSPORT])
def test_a_wish_comes_from_the_sdk_into_the_row(name: str) -> None:
    before, after = needs_to_wire(TaskNeeds()), needs_to_wire(TaskNeeds(**{name: _sample(name)}))
    assert getattr(after, name) == _sample(name), f"hivemind/models.py: needs_to_wire leaves out {name}"
    for request in (before, after):
        request.task_id = "task"
    assert _row(after) != _row(before), f"submit_task.py: requested_task() does not read {name}"


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in TRANSPORT])
def test_a_wish_comes_out_of_the_row_again(name: str) -> None:
    """A task that is done again is given what the first one was, and what is changed alone is changed."""
    wish = needs_to_wire(TaskNeeds(**{name: _sample(name)}))
    wish.task_id = "task"
    row = _row(wish)
    again = request_of_row(cast(Any, SimpleNamespace(**row)), default_minutes=SETTINGS.default_max_minutes)
    again.task_id = "task"
    assert _row(again) == row
    plain = needs_to_wire(TaskNeeds())
    changed = with_changes(plain, wish, [name])
    changed.task_id = "task"
    assert _row(changed) == row


def _row(request: pb.UploadTaskRequest) -> Mapping[str, Any]:
    # Nothing of the gateway is asked here but its settings.
    return requested_task(cast(Gateway, SimpleNamespace(settings=SETTINGS)), request)


def test_no_reason_stands_for_a_field_that_is_gone() -> None:
    lists = (
        TRANSPORT,
        COLUMN_OF,
        NO_COLUMN,
        NOT_COMPARED,
        NOT_COPIED,
        NOT_SHOWN,
        OPTION_OF,
        README_WORD_OF,
        SAMPLES,
    )
    assert {name for names in lists for name in names} - set(FIELDS) == set()
