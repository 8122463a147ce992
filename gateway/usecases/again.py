"""What was asked for a task, read off its row again: the request that would make the same one.

Whatever a request may say has its place here (tests/architecture/test_task_fields.py), so that a task which
is sent once more goes through the same checks, with the same values, as one that is sent anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.dependencies import from_lines
from nodepool.domain.tasks.retries import codes_from_text
from nodepool.domain.tasks.run_inputs import arguments_from_json, mapping_from_json
from nodepool.domain.tasks.run_secrets import words_of
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.task_rows import WholeTask

_FIELDS = frozenset(pb.UploadTaskRequest.DESCRIPTOR.fields_by_name)
READ_FROM_ROW: Mapping[str, Callable[[WholeTask], Any]] = {
    "memory_gb": lambda row: row.memory_gb,
    "memory_mb": lambda row: row.memory_mb,
    "cpu_score": lambda row: row.cpu_score,
    "gpu_score": lambda row: row.gpu_score,
    "gpu_memory_gb": lambda row: row.gpu_memory_gb,
    "location": lambda row: row.region,
    "gpu_name": lambda row: row.gpu_name,
    "image": lambda row: row.image,
    "network": lambda row: row.network,
    "max_minutes": lambda row: row.max_minutes,
    "priority": lambda row: row.priority,
    "min_trust": lambda row: row.min_trust,
    "location_mode": lambda row: row.location_mode.value,
    "replicas": lambda row: row.replicas,
    "compare_outputs": lambda row: row.compare_outputs.splitlines(),
    "take_pending": lambda row: row.take_pending,
    "exclusive": lambda row: row.exclusive,
    "fresh": lambda row: row.fresh,
    "arguments": lambda row: arguments_from_json(row.arguments),
    "environment": lambda row: mapping_from_json(row.environment),
    "secrets": lambda row: words_of(mapping_from_json(row.secrets)),
    "secrets_on_low_trust": lambda row: row.secrets_on_low_trust,
    "name": lambda row: row.name,
    "labels": lambda row: mapping_from_json(row.labels),
    "retries": lambda row: row.retries,
    "retry_on": lambda row: codes_from_text(row.retry_on),
    "backoff_seconds": lambda row: row.backoff_seconds,
    "after": lambda row: from_lines(row.after),
    "after_any": lambda row: from_lines(row.after_any),
    "notify": lambda row: from_lines(row.notify),
}
# One thing that is said in two ways.
_MEMORY = frozenset({"memory_gb", "memory_mb"})
# What differs between the tasks of an array.
OF_EACH_TASK = frozenset({"arguments", "environment"})


def request_of_row(row: WholeTask, *, default_minutes: int) -> pb.UploadTaskRequest:
    """Without id and package. One that named no longest run, or the pool's default, names none."""
    request = pb.UploadTaskRequest(**{name: read(row) for name, read in READ_FROM_ROW.items()})
    if row.minutes_by_balance or row.max_minutes == default_minutes:
        request.max_minutes = 0
    return request


def with_changes(
    request: pb.UploadTaskRequest, changes: pb.UploadTaskRequest, changed: Collection[str]
) -> pb.UploadTaskRequest:
    """The same with these fields of `changes`. Raises InvalidInputError for what cannot be changed."""
    for name in changed:
        if name not in READ_FROM_ROW:
            what = "comes with the package" if name in _FIELDS else "is no field of a task"
            raise InvalidInputError(f"{name[:40]!r} {what}: one of {', '.join(READ_FROM_ROW)} can be changed")
    names = set(changed)
    if _MEMORY & names:
        names |= _MEMORY
    result = _without(request, names)
    result.MergeFrom(_without(changes, _FIELDS - names))
    return result


def _without(request: pb.UploadTaskRequest, names: Collection[str]) -> pb.UploadTaskRequest:
    copy = pb.UploadTaskRequest()
    copy.CopyFrom(request)
    for name in names:
        copy.ClearField(name)  # type: ignore[arg-type]  # any name of a field
    return copy
