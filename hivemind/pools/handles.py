"""What a task and a job are to a program, whichever way it waits: their ids, what was seen last, and how
they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from hivemind.array_upload import ArraySubmission
from hivemind.functions.outcome import Taking
from hivemind.jobs import JobInfo
from hivemind.models import TaskInfo
from hivemind.pools import html
from nodepool.domain.safe_text import harmless
from nodepool.domain.tasks.states import TaskState


class TaskHandle:
    """`info` is the task as it was seen last, None before that. `index` is its place in its job."""

    def __init__(
        self,
        link: Any,
        task_id: str,
        *,
        index: int | None = None,
        info: TaskInfo | None = None,
        objects: bool = False,
        taking: Taking | None = None,
    ) -> None:
        self._link, self._objects, self._taking = link, objects, taking or Taking()
        self.task_id, self.index, self.info = task_id, index, info

    @property
    def state(self) -> TaskState | None:
        """As it was seen last: ask `status` for how it is now."""
        return self.info.state if self.info else None

    def _seen(self, info: TaskInfo) -> TaskInfo:
        self.info = info
        return info

    def __repr__(self) -> str:
        words = [harmless(self.task_id)]
        if self.info is not None:
            words.append(self.info.state.value.lower())
            words += [harmless(self.info.reason)] if self.info.reason else []
        return f"<{type(self).__name__} {', '.join(words)}>"

    def _repr_html_(self) -> str:
        rows = []
        if self.info is not None:
            info = self.info
            rows = [("state", html.state(info.state))]
            seen = (
                ("name", info.name),
                ("reason", info.reason),
                ("node", info.node),
                ("exit code", info.exit_code),
            )
            rows += [(name, html.text(value)) for name, value in seen if value not in ("", None)]
        return html.table(f"Task {self.task_id}", rows)


class JobHandle:
    """`info` is the job as it was seen last, None before that."""

    def __init__(
        self,
        link: Any,
        job_id: str,
        *,
        tasks: int = 0,
        info: JobInfo | None = None,
        objects: bool = False,
        taking: Taking | None = None,
        name: str = "",
        most_cpt: int = 0,
    ) -> None:
        self._link, self._objects, self._taking = link, objects, taking or Taking()
        self.job_id, self.info, self.name, self.most_cpt = job_id, info, name, most_cpt
        self._tasks = tasks
        self._indices: Sequence[int] = ()  # of all its tasks, where they are known

    @classmethod
    def sent(cls, link: Any, sent: ArraySubmission, *, objects: bool, taking: Taking, name: str) -> Self:
        job = cls(
            link,
            sent.job_id,
            tasks=sent.tasks,
            objects=objects,
            taking=taking,
            name=name,
            most_cpt=sent.most_cpt,
        )
        job._indices = range(sent.tasks) if objects else ()
        return job

    def __len__(self) -> int:
        return self.info.tasks if self.info else self._tasks

    @property
    def counts(self) -> Mapping[TaskState, int]:
        """How many tasks were in which state when it was seen last: ask `status` for how it is now."""
        counts = self.info.counts if self.info else {}
        return {state: counts[state] for state in TaskState if counts.get(state)}

    def _seen(self, info: JobInfo) -> JobInfo:
        self.info = info
        return info

    def __repr__(self) -> str:
        name = f" {harmless(self.name)!r}" if self.name else ""
        counts = [f"{count:,} {word.value.lower()}" for word, count in self.counts.items()]
        states = f": {', '.join(counts)}" if counts else ""
        return f"<{type(self).__name__} {harmless(self.job_id)}{name}, {len(self):,} tasks{states}>"

    def _repr_html_(self) -> str:
        rows = [("name", html.text(self.name))] if self.name else []
        rows.append(("tasks", html.bar(self.info.ended if self.info else 0, len(self))))
        if self.info is not None:
            rows.append(("states", html.counts(self.counts)))
            rows.append(("CPT", f"{self.info.paid_cpt:,} paid, {self.info.held_cpt:,} held"))
            rows += [
                (group.state.value.lower(), f"{group.tasks:,}: {html.text(group.reason)}")
                for group in self.info.reasons
            ]
        return html.table(f"Job {self.job_id}", rows)
