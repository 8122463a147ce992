"""Following a task on the terminal: its output on stdout, its states on stderr, Ctrl-C."""

from __future__ import annotations

import codecs
import sys
from dataclasses import dataclass, field

from hivemind.cli.app import App, write_stdout
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import Spinner, bytes_text, duration_text, jsonable
from hivemind.cli.render.terminal import OutputFilter
from hivemind.errors import ClientError
from hivemind.models import OutputEvent, StateEvent, TaskEvent, TaskInfo
from hivemind.sdk import NodePoolClient
from hivemind.watching import Position
from nodepool.domain.tasks.states import TaskState


def follow(
    app: App, pool: NodePoolClient, task_id: str, *, stop_on_interrupt: bool = False
) -> TaskInfo | None:
    """Show a task until it has ended. None when Ctrl-C left it running.

    With `stop_on_interrupt` the first Ctrl-C stops the task and its end is still shown.
    """
    position = Position()
    sink = JsonSink(app) if app.json else TerminalSink(app)
    try:
        while True:
            try:
                for event in pool.watch(task_id, position):
                    sink.take(event)
            except KeyboardInterrupt:
                sink.close()
                if not stop_on_interrupt:
                    app.notice(
                        f"detached; {task_id} goes on. Come back with `hivemind logs -f {task_id}`, "
                        f"end it with `hivemind stop {task_id}`"
                    )
                    return None
                stop_on_interrupt = False
                _stop(app, pool, task_id)
            else:
                return position.last
    finally:
        sink.close()


def _stop(app: App, pool: NodePoolClient, task_id: str) -> None:
    app.notice(f"stopping {task_id}; Ctrl-C again leaves it")
    try:
        pool.stop(task_id)
    except ClientError as error:
        app.notice(f"it could not be stopped: {error}")


class JsonSink:
    """One JSON object a line: {"event": "state", …} and {"event": "output", …}."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._attempt = 0
        self._decoder = _utf8()

    def take(self, event: TaskEvent) -> None:
        if isinstance(event, StateEvent):
            self._app.answer({"event": "state", "task": jsonable(event.task)})
            return
        if event.attempt_number != self._attempt or event.skipped_bytes:
            self._attempt, self._decoder = event.attempt_number, _utf8()
        self._app.answer(
            {
                "event": "output",
                "attempt_number": event.attempt_number,
                "offset": event.offset,
                "skipped_bytes": event.skipped_bytes,
                "text": self._decoder.decode(event.data),
            }
        )

    def close(self) -> None:
        """Nothing is kept back but half a character."""


@dataclass(slots=True)
class TerminalSink:
    app: App
    spinner: Spinner = field(default_factory=Spinner)
    _shown: str = ""
    _attempt: int = 0
    _on_fresh_line: bool = True
    _filter: OutputFilter | None = field(init=False)
    _screen: bool = field(init=False)

    def __post_init__(self) -> None:
        self._screen = sys.stdout.isatty()
        # A file or a pipe gets the bytes as they are.
        self._filter = OutputFilter() if self._screen else None

    def take(self, event: TaskEvent) -> None:
        if isinstance(event, OutputEvent):
            self._output(event)
        else:
            self._state(event.task)

    def close(self) -> None:
        self.spinner.hide()
        if self._filter and (end := self._filter.plain()):
            write_stdout(end)
        if self._screen and not self._on_fresh_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._on_fresh_line = True

    def _output(self, event: OutputEvent) -> None:
        if self._screen:
            # A spinner and output on one screen would write over each other.
            self.spinner.hide()
        if self._attempt and event.attempt_number != self._attempt:
            self._say(f"attempt {event.attempt_number} begins; its output starts anew")
        self._attempt = event.attempt_number
        if event.skipped_bytes:
            self._say(f"{bytes_text(event.skipped_bytes)} of output are only in the result's task_logs.txt")
        data = self._filter.feed(event.data) if self._filter else event.data
        if data:
            write_stdout(data)
            self._on_fresh_line = data.endswith(b"\n")

    def _state(self, task: TaskInfo) -> None:
        line = state_line(task)
        if line != self._shown:
            self._shown = line
            self._say(line)
        if not task.final and not (self._screen and self._attempt):
            self.spinner.show(line)

    def _say(self, text: str) -> None:
        if self._screen:
            self.close()
        self.app.notice(f"· {one_line(text)}")


def state_line(task: TaskInfo) -> str:
    parts: list[str] = [task.state.lower()]
    if task.state in {TaskState.PLACED, TaskState.RUNNING} and task.node:
        parts.append(f"on {task.node}")
        if task.attempt_number > 1:
            parts.append(f"(attempt {task.attempt_number})")
    if task.final and task.started_at and task.finished_at:
        parts.append(f"after {duration_text(task.finished_at - task.started_at)}")
    if task.exit_code:
        parts.append(f"with exit code {task.exit_code}")
    if task.stop_requested and not task.final:
        parts.append("(stopping)")
    return " ".join(parts) + (f": {task.reason}" if task.reason else "")


def _utf8() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")
