"""How large a message of each call may be, and what a message must be before anybody looks at it.

Most calls take small messages only. Which of them carry packages, results or output is in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from google.protobuf.message import DecodeError, Message

from gateway.admission.message_shapes import check_shape
from gateway.auth.access import UPLOAD
from nodepool.domain.errors import InvalidInputError, TooLargeError
from nodepool.settings import Settings

KIB, MIB = 1 << 10, 1 << 20
SMALL_BYTES = 64 * KIB
# Of who has not shown a token yet. A token has 4 KiB at most. Beside a package it comes from clients whose
# packages are small: a larger one needs it in the metadata.
STRANGERS_BYTES = 16 * KIB
_STRANGERS_PACKAGE_BYTES = 1 * MIB
_STRANGERS_SECONDS, _STRANGERS_PACKAGE_SECONDS = 5.0, 15.0
# A piece of a stream, or output: at most 1 MiB of it, and what stands around it.
_PIECE_BYTES = 4 * MIB
_AROUND_BYTES = 64 * KIB
_STREAM_SECONDS, _LEAST_BYTES_PER_SECOND = 600.0, 16 * KIB

_MASTER, _NODES, _WORKER = (
    f"/nodepool.{name}/" for name in ("MasterNodeService", "NodeManagerService", "WorkerNodeService")
)
_WITH_PIECES = frozenset(
    {
        f"{_MASTER}UploadTaskStream",
        f"{_MASTER}SubmitArray",
        f"{_MASTER}SubmitFlow",
        f"{_MASTER}StoreOutput",
        f"{_MASTER}StoreLogs",
        f"{_NODES}AppendOutput",
        f"{_NODES}FinishAttempt",
        f"{_WORKER}ReportOutput",
    }
)
_WITH_PACKAGE = frozenset({f"{_MASTER}UploadTask", f"{_WORKER}ExecuteTask"})
_WITH_RESULT = frozenset({f"{_MASTER}StoreResult", f"{_MASTER}ReturnTaskResult"})

# Answers with output: they are sent under the budget, and not for ever. Results see to it themselves.
LARGE_ANSWERS = frozenset({f"{_MASTER}{name}" for name in ("GetTaskLogs", "PollTaskStatus")})

# Text of programs, which may hold anything, and words that are compared and never kept as they are.
ANY_TEXT = frozenset(
    {
        "nodepool.StoreOutputRequest.output",
        "nodepool.StoreLogsRequest.logs",
        "nodepool.ReportOutputRequest.output",
        "nodepool.AttemptEnd.reason",
        "nodepool.LoginRequest.username",
        "nodepool.LoginRequest.password",
        "nodepool.RegisterRequest.password",
        "nodepool.ChangePasswordRequest.old_password",
        "nodepool.ChangePasswordRequest.new_password",
    }
)


def largest_message(settings: Settings) -> int:
    """No message may be larger, whoever sends it."""
    whole = max(settings.max_file_size, settings.max_result_bytes) + _AROUND_BYTES
    return max(_PIECE_BYTES, min(settings.grpc_max_message_mb * MIB, whole))


def limit_of(method: str, settings: Settings) -> int:
    """The largest message that the call takes from who has shown a token."""
    largest = settings.grpc_max_message_mb * MIB
    if method in _WITH_PACKAGE:
        return min(largest, settings.max_file_size + _AROUND_BYTES)
    if method in _WITH_RESULT:
        return min(largest, settings.max_result_bytes + _AROUND_BYTES)
    return _PIECE_BYTES if method in _WITH_PIECES else SMALL_BYTES


def strangers_bytes(method: str) -> int:
    """The largest message that the call reads of who has not shown a token."""
    return _STRANGERS_PACKAGE_BYTES if method == UPLOAD else STRANGERS_BYTES


def strangers_seconds(method: str) -> float:
    """How long that message may take."""
    return _STRANGERS_PACKAGE_SECONDS if method == UPLOAD else _STRANGERS_SECONDS


def longest_stream_seconds(settings: Settings) -> float:
    """How long a stream of messages may take, however lively it is: slow lines get the largest through."""
    return _STREAM_SECONDS + max(settings.max_file_size, settings.max_result_bytes) / _LEAST_BYTES_PER_SECOND


def too_large(method: str, limit: int) -> TooLargeError:
    name = method.rpartition("/")[2]
    what = {True: "; see this pool's MAX_FILE_SIZE"}.get(method in _WITH_PACKAGE, "")
    return TooLargeError(f"the message is too large: {name} takes at most {limit} bytes here{what}")


def parsed(raw: bytes, deserialize: Callable[[bytes], Any] | None) -> Any:
    """The message. InvalidInputError for bytes that are none, and for text that cannot be kept."""
    if deserialize is None:
        return raw
    kind = getattr(deserialize, "__self__", None)
    if isinstance(kind, type) and issubclass(kind, Message):
        check_shape(raw, kind.DESCRIPTOR, ANY_TEXT)
    try:
        message = deserialize(raw)
    except (DecodeError, ValueError, RecursionError):
        raise InvalidInputError("the message cannot be read: it is not what this call takes") from None
    if isinstance(message, Message) and 0 in raw:
        _check_text(message)
    return message


def _check_text(message: Message) -> None:
    for field in _fields_with_nul(message):
        raise InvalidInputError(f"{field} must not hold a NUL character")


def _fields_with_nul(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for one in _values(field, value):
            if isinstance(one, Message):
                yield from _fields_with_nul(one)
            elif isinstance(one, str) and "\0" in one and field.full_name not in ANY_TEXT:
                yield field.name


def _values(field: Any, value: Any) -> Iterable[Any]:
    """Of a map its keys and values."""
    if not field.is_repeated:
        return (value,)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return chain.from_iterable(value.items()) if is_map else value
