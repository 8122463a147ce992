"""The digest of a stored result, which the pool makes itself: a node's word is not asked for."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Row

from nodepool import comparing
from nodepool.comparing import Ended, IncomparableError
from nodepool.errors import NotFoundError
from nodepool.stores.files import FileStore
from nodepool.task import Outcome

log = logging.getLogger(__name__)
# A hostile result costs much more memory and time than an honest one: not many at once.
_AT_ONCE = threading.Semaphore(2)
COMPARED_OUTCOMES = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})


def digest_of(
    files: FileStore, task: Row[Any], attempt_id: str, ended: Ended, *, has_result: bool, max_bytes: int
) -> str:
    """Of this attempt's result, by what its task compares. Raises UnavailableError or StorageFullError."""
    patterns = task.compare_outputs.splitlines()
    with ExitStack() as stack:
        stack.enter_context(_AT_ONCE)
        try:
            result = (
                stack.enter_context(files.seekable(files.open_result(attempt_id))) if has_result else None
            )
            package = None
            if result is not None and not patterns:
                package = stack.enter_context(files.seekable(files.open_package(task.package_sha256)))
            return comparing.digest(ended, result, package, patterns, max_bytes)
        except (IncomparableError, NotFoundError) as error:
            log.info("the result of %s cannot be compared: %s", attempt_id, error)
            return comparing.unlike_any_other(attempt_id)
