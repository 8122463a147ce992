"""What a task said, as one answer. Who may have it is decided before."""

from __future__ import annotations

from gateway import messages as views
from gateway.context import Gateway
from gateway.usecases import tasks
from gateway.usecases.output_text import text_of
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis.output import OutputWindow
from nodepool.stores.sql.task_rows import OwnedTask

# Bytes, the text that is made of them, and the answer; those that are no text become three each.
_TEXT_FACTOR = 4


async def logs_of(gateway: Gateway, row: OwnedTask, reader_id: int) -> pb.GetTaskLogsResponse:
    """`reader_id`: whose memory the answer counts to."""
    if row.files_removed_at and not row.log_bytes:
        return pb.GetTaskLogsResponse(
            success=False, message=f"its output is not kept any more: {views.removed_text(row)}"
        )
    # All of it, where all of it is kept: the live window may have moved on.
    window = await tasks.output_of(gateway, row)
    with gateway.memory.hold(reader_id, _TEXT_FACTOR * len(window.data)):
        return await gateway.run(_logs, views.status_message(row), window)


def earlier(window: OutputWindow) -> str:
    return f"[{window.base} earlier bytes are no longer kept live]" if window.base else ""


def _logs(message: str, window: OutputWindow) -> pb.GetTaskLogsResponse:
    text, before = text_of(window.data), earlier(window)
    logs = f"{before}\n{text}" if before else text
    return pb.GetTaskLogsResponse(success=True, message=message, logs=logs)
