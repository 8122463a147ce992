"""The containers of one runner that are kept warm: begun ahead, used again, thrown away.

Knows neither options of containers nor the engine: `make` begins one, `remove` takes one away. What waits is
bounded, and nobody's: it is given out under a lock, once.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from worker_agent.runners.base import RunSpec
from worker_agent.runners.warm_container import WarmContainer, WarmTask
from worker_agent.runners.warm_rules import (
    SandboxKind,
    SandboxLimits,
    SandboxUse,
    choose,
    may_run_again,
    superfluous,
)
from worker_agent.trash import remove_tree

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0
_HELPERS = 4
_UNFIT_SECONDS, _FAILED_SECONDS = 600.0, 15.0


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """`folder` is the runner's own, on the file system of the working directories."""

    folder: Path
    sandboxes: int  # that wait at once, at most


class NotFitError(Exception):
    """An image whose containers cannot be kept warm."""


class WarmSandboxes:
    """Thread-safe. Every container that it has given out comes back with `ended` or `remove`."""

    def __init__(
        self,
        options: WarmOptions,
        make: Callable[[SandboxUse, Path], WarmContainer],
        remove: Callable[[str], None],
        *,
        use_again: bool,
    ) -> None:
        """`make` raises NotFitError, or OSError when the engine does not do it now."""
        self._options = options
        self._make = make
        self._remove = remove
        self._use_again = use_again
        self._helpers = ThreadPoolExecutor(_HELPERS, "warm-sandboxes")
        self._lock = threading.Lock()
        self._waiting: list[WarmContainer] = []
        self._lent: set[str] = set()  # containers that may come back
        self._beginning = 0
        self._missed = False
        self._usual: tuple[SandboxKind, SandboxLimits] | None = None
        self._not_before: dict[str, float] = {}  # by image; after one that could not be begun
        self._closed = False
        with contextlib.suppress(FileNotFoundError):
            remove_tree(options.folder)
        options.folder.mkdir(mode=0o711, parents=True)

    def take(self, spec: RunSpec) -> WarmContainer | None:
        """One for this task and for no other; None: it gets a container of its own. More are begun."""
        with self._lock:
            self._usual = SandboxKind.of(spec), SandboxLimits.of(spec)
            use = choose([warm.use for warm in self._waiting], spec, time.monotonic())
            found = next((warm for warm in self._waiting if warm.use is use), None)
            if found is None:
                self._missed = True
            else:
                self._waiting.remove(found)
                if self._comes_back(spec):
                    self._lent.add(found.container)
        self._keep_up()
        if found is not None and not found.is_quiet():
            self.remove(found, "it has ended")
            return None
        return found

    def ended(self, warm: WarmContainer, task: WarmTask, spec: RunSpec) -> None:
        """The task has ended, and its files are in its working directory again when this returns."""
        warm.use.tasks += 1
        end, again = task.end, spec.again
        fine = end is not None and not end.memory_kills and not task.touched
        if again is None or not fine or not self._comes_back(spec):
            self.remove(warm)
            return
        warm.use.owner = again.owner
        warm.use.waits_since = time.monotonic()
        warm.use.ends_at = warm.use.waits_since + again.idle_seconds
        if not may_run_again(warm.use, spec, warm.use.waits_since) or not _given_out(warm, spec.work_dir):
            self.remove(warm)
            return
        self._start(lambda: self._clean(warm))

    def remove(self, warm: WarmContainer, why: str = "") -> None:
        if why:
            log.info("a warm sandbox is thrown away", action="warm.thrown_away", reason=why)
        with self._lock:
            self._lent.discard(warm.container)
        warm.close()
        self._start(lambda: self._remove(warm.container))
        self._keep_up()

    def tend(self) -> float | None:
        """For a watcher: what waits for nobody goes."""
        if self._closed:
            return None
        self._keep_up()
        return _LOOK_SECONDS

    def try_again(self) -> None:
        """An image has come."""
        self._not_before.clear()

    @property
    def waiting(self) -> list[SandboxUse]:
        with self._lock:
            return [warm.use for warm in self._waiting]

    def close(self) -> None:
        """After the runs."""
        self._closed = True
        self._helpers.shutdown()
        with self._lock:
            left, self._waiting = self._waiting, []
        for warm in left:
            warm.close()
            self._remove(warm.container)
        with contextlib.suppress(OSError):
            remove_tree(self._options.folder)

    def _comes_back(self, spec: RunSpec) -> bool:
        asked = spec.again is not None and bool(spec.again.owner) and not spec.secrets
        return asked and self._use_again and not self._closed

    # -- in the background ---------------------------------------------------------------------------
    def _start(self, call: Callable[[], None]) -> None:
        try:
            self._helpers.submit(call)
        except RuntimeError:  # the runner is being closed
            call()

    def _keep_up(self) -> None:
        """Throws away what nobody waits for, and begins what is missing."""
        with self._lock:
            if self._closed or self._usual is None:
                return
            kind, limits = self._usual
            uses = [warm.use for warm in self._waiting]
            gone = superfluous(uses, kind, self._options.sandboxes, time.monotonic())
            going = [warm for warm in self._waiting if any(warm.use is use for use in gone)]
            for warm in going:
                self._waiting.remove(warm)
            missing = self._options.sandboxes - len(self._waiting) - len(self._lent) - self._beginning
            if self._missed and missing <= 0 and (used := [w for w in self._waiting if w.use.owner]):
                # Another's, or another kind, was asked for: the one that has waited longest makes room.
                going.append(min(used, key=lambda warm: warm.use.waits_since))
                self._waiting.remove(going[-1])
                missing = 1
            self._missed = False
            paused = time.monotonic() < self._not_before.get(kind.image, 0.0)
            missing = 0 if paused else max(0, missing)
            self._beginning += missing
        for warm in going:
            self.remove(warm)
        for _ in range(missing):
            self._start(lambda: self._begin(kind, limits))

    def _begin(self, kind: SandboxKind, limits: SandboxLimits) -> None:
        slot = self._options.folder / secrets.token_hex(8)
        made: WarmContainer | None = None
        try:
            if not self._closed:
                slot.mkdir(mode=0o700)
                made = self._make(SandboxUse(kind, limits), slot)
                made.use.waits_since = time.monotonic()
        except NotFitError as error:
            self._not_before[kind.image] = time.monotonic() + _UNFIT_SECONDS
            log.warning(
                "containers of an image are not kept warm",
                action="warm.unfit",
                image=kind.image,
                reason=str(error),
            )
        except OSError as error:
            self._not_before[kind.image] = time.monotonic() + _FAILED_SECONDS
            log.info("no sandbox could be begun ahead", action="warm.not_begun", reason=str(error))
        finally:
            with self._lock:
                self._beginning -= 1
                if made is not None:
                    self._waiting.append(made)
            if made is None:
                with contextlib.suppress(OSError):
                    slot.rmdir()

    def _clean(self, warm: WarmContainer) -> None:
        try:
            left = warm.clean()
        except Exception as error:  # noqa: BLE001  any doubt
            left = str(error) or type(error).__name__
        if left:
            self.remove(warm, left)
            return
        with self._lock:
            self._lent.discard(warm.container)
            warm.use.waits_since = time.monotonic()
            self._waiting.append(warm)
        self._keep_up()


def _given_out(warm: WarmContainer, work_dir: Path) -> bool:
    try:
        return warm.give_out(work_dir)
    except OSError:
        return False
