"""Jobs, looked after from SQL: told again, stopped, noted as ended, dropped where nobody accepts them.

All of it is derived from what is there, and done again if it is not finished: no message carries it.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.dependents import DependentKeeper
from nodepool.domain.errors import NodePoolError
from nodepool.messaging.names import PLACE, partition_queue
from nodepool.messaging.publisher import Hint
from nodepool.stores.sql import held_back_results, job_intake, jobs as job_store, tasks as task_store
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows import unaccepted_jobs

log = logging.getLogger(__name__)
_JOBS_AT_ONCE = 200
# Tasks that one pass stops: the rest comes with the next.
_TASKS_AT_ONCE = 500
_PAGES = 10
_LEAST_HINT_AGE_SECONDS = 5.0


class JobKeeper:
    """For the sweep's thread."""

    def __init__(self, dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
        self._dispatcher = dispatcher
        self._placement_loop = placement_loop
        self._dependents = DependentKeeper(dispatcher, placement_loop)

    def look(self) -> None:
        """One pass. Raises UnavailableError."""
        self._dependents.look()
        database, now = self._dispatcher.database, self._dispatcher.clock()
        for job_id in database.read(lambda c: job_intake.all_left_behind(c, now, _JOBS_AT_ONCE)):
            self._drop(job_id)
        for job in database.read(lambda c: job_store.open_jobs(c, _JOBS_AT_ONCE)):
            if job.stop_requested:
                self._stop(job)
            if database.read(lambda c: job_store.is_unfinished(c, job.id)):  # noqa: B023
                self._tell(job)
            else:
                database.write(lambda c: job_store.note_end(c, job.id, now))  # noqa: B023

    def _tell(self, job: StoredJob) -> None:
        """One task of it that waits: whoever hears of it looks for the others."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        first = dispatcher.database.read(lambda c: job_store.first_waiting(c, job.id))
        age = max(_LEAST_HINT_AGE_SECONDS, 2 * dispatcher.settings.sweep_period_seconds)
        is_stale = job.hinted_at < now - age
        if first is not None and not self._placement_loop.is_known(first.id):
            self._placement_loop.hint(first.id)
            if is_stale:
                queue = partition_queue(first.tier, first.region)
                dispatcher.publisher.send_all([Hint(PLACE, first.id, queue)])
        if is_stale:
            dispatcher.database.write(lambda c: job_store.mark_hinted(c, [job.id], now))

    def _stop(self, job: StoredJob) -> None:
        database, now = self._dispatcher.database, self._dispatcher.clock()
        for _ in range(_PAGES):
            if not database.write(lambda c: job_store.stop_waiting(c, job.id, now, _TASKS_AT_ONCE)):
                break
        for task_id in database.read(lambda c: job_store.still_to_stop(c, job.id, _TASKS_AT_ONCE)):
            try:
                database.write(
                    lambda c: task_store.request_stop(c, task_id, now),  # noqa: B023
                    sharing=ledger_store.TOGETHER,
                )
            except NodePoolError as error:
                log.warning("task %s is stopped later: %s", task_id, error)
        held = database.read(lambda c: held_back_results.ids_of_job(c, job.id, _TASKS_AT_ONCE))
        for task_id in database.write(lambda c: held_back_results.give(c, held, now)) if held else ():
            self._dispatcher.lifecycle.outputs.announce(task_id)

    def _drop(self, job_id: str) -> None:
        """What a gateway left that ended while it accepted the job."""
        database, clock = self._dispatcher.database, self._dispatcher.clock
        found = database.read(lambda c: job_intake.find_any(c, job_id))
        holder = unaccepted_jobs.take_over(database, clock, job_id) if found is not None else ""
        if found is None or not holder:
            return
        while unaccepted_jobs.drop_some(database, clock, job_id, holder, found.owner_id):
            pass
        log.warning("job %s was never wholly accepted; what there was of it is dropped", job_id)
