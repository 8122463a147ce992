"""Output that no result has: what was said live, stored beside the results when its attempt has ended.

Of a worker without an agent, whose result need not have it, and of an attempt that was lost and after which
no other comes: what it said until then is all that its owner will ever see of it.
"""

from __future__ import annotations

import logging

from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.tasks.reasons import Reason
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.redis.output import OutputStore, OutputWindow
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database

log = logging.getLogger(__name__)


def keep_log(files: FileStore, attempt_id: str, said: OutputWindow, *, ending: str = "") -> int:
    """Of an attempt whose result may not have it, for its live window ends soon. How many bytes are kept."""
    if not said.end:
        return 0
    earlier = f"[{said.base} earlier bytes of output were not kept]\n" if said.base else ""
    kept = earlier.encode() + said.data + ending.encode()
    try:
        files.put_log(attempt_id, kept)
    except NodePoolError as error:
        log.warning("the output of %s is not kept: %s", attempt_id, error)
        return 0
    return len(kept)


def keep_lost_output(
    database: Database,
    files: FileStore,
    outputs: OutputStore,
    *,
    task_id: str,
    attempt_number: int,
    attempt_id: str,
    reason: Reason,
) -> None:
    """After the end of a task whose last attempt was lost."""
    try:
        said = outputs.window(attempt_id)
    except UnavailableError as error:
        log.warning("the output of %s, which was lost, is not kept: %s", attempt_id, error)
        return
    begin = "" if said.data.endswith(b"\n") else "\n"
    ending = f"{begin}[the attempt was lost: {reason}; what it said after this is not known]\n"
    size = keep_log(files, attempt_id, said, ending=ending)
    if size and not database.write(lambda c: task_store.note_log(c, task_id, attempt_number, size)):
        files.delete_log(attempt_id)  # its owner has deleted the task meanwhile
