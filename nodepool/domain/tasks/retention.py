"""How long an ended task's result, output and record are kept. Pure; knows neither disks nor tables.

Times are Unix seconds, None is never. A task that is not there any more keeps nothing, and the output is in
the result: so the record stays the longest, and the output at least as long as the result.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Days after the end; 0 is for ever."""

    result_days: float
    log_days: float
    task_days: float

    @property
    def _result(self) -> float:
        return min(_days(self.result_days), _days(self.task_days))

    @property
    def _log(self) -> float:
        return min(max(_days(self.log_days), self._result), _days(self.task_days))

    @property
    def keeps_output_longer(self) -> bool:
        """The output stays when the result goes, and so is kept apart."""
        return self._log > self._result

    def results_before(self, now: float) -> float | None:
        """Results of tasks that ended before this are removed."""
        return _before(now, self._result)

    def outputs_before(self, now: float) -> float | None:
        return _before(now, self._log)

    def tasks_before(self, now: float) -> float | None:
        return _before(now, _days(self.task_days))

    def result_until(self, finished_at: float) -> float:
        """When the result of a task that ended then is removed; 0: never."""
        return finished_at + self._result if self._result < float("inf") else 0.0

    @property
    def task_told(self) -> str:
        """How long tasks are kept, as people are told."""
        return _told(_days(self.task_days))


def _days(days: float) -> float:
    return days * DAY_SECONDS if days > 0 else float("inf")


def _before(now: float, seconds: float) -> float | None:
    return now - seconds if seconds < float("inf") else None


def days_told(seconds: float) -> str:
    days = f"{max(0.0, seconds) / DAY_SECONDS:.3g}"
    return f"{days} day" if days == "1" else f"{days} days"


def _told(seconds: float) -> str:
    return "for ever" if seconds == float("inf") else days_told(seconds)
