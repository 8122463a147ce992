"""Whether this machine can run tasks now, by its engine, its disks and what is still to be removed.

Knows neither attempts nor how the pool decides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from nodepool.domain.errors import NodePoolError
from worker_agent.registration import Registration, ReplacedError
from worker_agent.runners.base import Runner
from worker_agent.runners.disk_room import DiskHealth
from worker_agent.trash import Trash

log = structlog.get_logger(__name__)


class NodeHealth:
    """`look` and `tell` from one thread at a time."""

    def __init__(
        self,
        runner: Runner,
        trash: Trash,
        data_dir: Path,
        membership: Registration,
        on_replaced: Callable[[ReplacedError], None],
        give_up: Callable[[], bool],
    ) -> None:
        self._runner = runner
        self._trash = trash
        self._membership = membership
        self._on_replaced = on_replaced
        self._disks = DiskHealth((data_dir, *runner.disks))
        self._engine_works = True
        self._give_up = give_up
        self._told = ""

    def look(self, workdir_bytes: int) -> str:
        """Why nothing can be run here now, or nothing. `workdir_bytes`: what a run may have; 0: not known."""
        engine = self._runner.problem()
        self._engine_works = not engine
        if workdir_bytes and not engine and self._runner.has_more_images():
            # What was refused for the want of them may come again.
            self.tell(self._told)
        return engine or self._trash.problem() or self._disks.problem(workdir_bytes)

    def begin(self) -> str:
        """The pool hears of a full disk with the registration, and not with the first refusal."""
        self._told = problem = self.look(0)
        self._membership.begin_unfit(problem)
        return problem

    def tell(self, problem: str) -> bool:
        """To the pool, which gives the node no work meanwhile. False when it could not be told."""
        try:
            self._membership.tell_health(problem, engine_works=self._engine_works, give_up=self._give_up)
        except ReplacedError as error:
            self._on_replaced(error)
        except NodePoolError as error:
            log.warning("the pool was not told of the engine", action="engine.untold", reason=str(error))
            return False
        self._told = problem
        return True
