"""Runs attempts as processes: own user, limits, and bubblewrap's namespaces where the machine has them.

Weaker than a container whatever the machine offers, which is why such a node is of low trust. What
a run may do is decided in `worker_agent.sandbox`; here it is started, watched and ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from worker_agent.package import remove_tree
from worker_agent.runners import leftovers, proc
from worker_agent.runners.base import RunRefusedError, RunSpec
from worker_agent.runners.process_run import ProcessRun, Started
from worker_agent.runners.requirements import bootstrap_for
from worker_agent.runners.shares import CoreShares, UserPool
from worker_agent.runners.tools import FIRST_UID, UID_COUNT, find_tools
from worker_agent.runners.watch import Watcher
from worker_agent.sandbox import (
    Bootstrap,
    TaskUser,
    attempt_slug,
    process_command,
    process_environment,
)

DEFAULT_LOCK_DIR = Path("/run/hivemind-users")
_SANDBOX_HOME = "/tmp"  # noqa: S108  the sandbox's own
_RECORDS = "runs"
_HOMES = "homes"


class ProcessRunner:
    """`state_dir` is this runner's own: nothing else writes there, and no other agent uses it."""

    name = "process"

    def __init__(
        self, state_dir: Path, *, lock_dir: Path = DEFAULT_LOCK_DIR, use_bubblewrap: bool = True
    ) -> None:
        """Tries what the machine offers, which takes some tens of milliseconds.

        Raises RunRefusedError when tasks could not run here at all.
        """
        self._as_root = os.geteuid() == 0
        self._state_dir = state_dir
        for folder in (state_dir, state_dir / _RECORDS, state_dir / _HOMES):
            folder.mkdir(parents=True, exist_ok=True)
        self.tools = find_tools(state_dir, as_root=self._as_root, use_bubblewrap=use_bubblewrap)
        self._users = UserPool(FIRST_UID, UID_COUNT, _lock_dir(lock_dir, state_dir))
        self._cores = CoreShares(os.sched_getaffinity(0))
        self._all_cores = frozenset(os.sched_getaffinity(0))
        self._watcher = Watcher("process-watcher")
        if self.tools.bwrap:
            proc.adopt_orphans()
        # A sandbox dies with the thread that started it: one that lives as long as the runner.
        self._spawner = ThreadPoolExecutor(1, "process-spawner")

    @property
    def isolation(self) -> str:
        """`bubblewrap`, `namespaces` or `limits`: the first is the strongest."""
        if self.tools.bwrap:
            return "bubblewrap"
        return "namespaces" if self.tools.unshare else "limits"

    def prepare(self, spec: RunSpec) -> PreparedProcess:
        if spec.gpu:
            raise RunRefusedError("this node runs tasks without containers, and so without its GPU")
        if self._as_root and not self.tools.bwrap:
            _check_reachable(spec.work_dir)
        user = self._user()
        bootstrap = bootstrap_for(spec.work_dir)
        home = None if self.tools.bwrap else self._state_dir / _HOMES / attempt_slug(spec.attempt_id)
        if home is not None:
            home.mkdir(exist_ok=True)
        prepared = PreparedProcess(self, spec, user, bootstrap, home)
        try:
            for folder in (spec.work_dir, *prepared.own_folders):
                if user.drop_to is not None:
                    give_tree(folder, user.drop_to, user.drop_to)
                folder.chmod(0o700)
        except BaseException:
            prepared.discard()
            raise
        return prepared

    def reap(self, keep: Collection[str]) -> int:
        ended = leftovers.end_recorded(
            self._state_dir / _RECORDS, keep, self._users.owns_or_locks if self._as_root else None
        )
        kept = {attempt_slug(attempt_id) for attempt_id in keep}
        for home in (self._state_dir / _HOMES).iterdir():
            if home.name not in kept:
                remove_tree(home)
        return ended

    def problem(self) -> str:
        return ""

    def close(self) -> None:
        self._watcher.close()
        self._spawner.shutdown()
        self._users.close()

    def _user(self) -> TaskUser:
        if self._as_root:
            return TaskUser(drop_to=self._users.acquire())
        return TaskUser(drop_to=None, processes_besides=proc.threads_of_user(os.geteuid()))

    def _start(self, prepared: PreparedProcess, on_output: Callable[[bytes], None]) -> ProcessRun:
        cores = self._cores.take(prepared.spec.cpus)
        try:
            started = self._spawner.submit(self._spawn, prepared, cores).result()
        except BaseException as error:
            self._cores.give_back(cores)
            self._clean(prepared)
            if isinstance(error, OSError):
                raise RunRefusedError(f"the task's process cannot be started: {error}") from error
            raise
        record = leftovers.record(
            self._state_dir / _RECORDS, prepared.spec.attempt_id, started.process.pid, started.uid
        )

        def clean() -> None:
            record.unlink(missing_ok=True)
            self._cores.give_back(cores)
            self._clean(prepared)

        folders = (prepared.spec.work_dir, *prepared.own_folders)
        return ProcessRun(
            prepared.spec, started, on_output, self._watcher, folders, prepared.bootstrap, clean
        )

    def _spawn(self, prepared: PreparedProcess, cores: frozenset[int]) -> Started:
        """In the spawner's thread, whose cores the child inherits."""
        spec, tools, user = prepared.spec, self.tools, prepared.user
        status_reader, status_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if tools.bwrap else (None, None)
        command = process_command(
            spec, tools, user, bootstrap=prepared.bootstrap, status_descriptor=status_writer
        )
        home = _SANDBOX_HOME if prepared.home is None else str(prepared.home)
        # Without setpriv the user must be changed here.
        drop_here = user.drop_to if not tools.setpriv else None
        os.sched_setaffinity(0, cores)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd=spec.work_dir,
                env=process_environment(spec, tools, home, prepared.bootstrap),
                start_new_session=True,
                pass_fds=() if status_writer is None else (status_writer,),
                user=drop_here,
                group=drop_here,
                extra_groups=None if drop_here is None else [],
                umask=0o022,
            )
        except BaseException:
            if status_reader is not None:
                os.close(status_reader)
            raise
        finally:
            if status_writer is not None:
                os.close(status_writer)
        return Started(process, status_reader, user.drop_to)

    def _clean(self, prepared: PreparedProcess) -> None:
        for folder in prepared.own_folders:
            with contextlib.suppress(OSError):
                remove_tree(folder)
        if prepared.user.drop_to is not None:
            self._users.release(prepared.user.drop_to)


@dataclass(frozen=True, slots=True)
class PreparedProcess:
    _runner: ProcessRunner
    spec: RunSpec
    user: TaskUser
    bootstrap: Bootstrap | None
    home: Path | None

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """What the run can write to besides its working directory, and what goes when it ends."""
        folders = (self.home, self.bootstrap.host_dir if self.bootstrap else None)
        return tuple(folder for folder in folders if folder is not None)

    def start(self, on_output: Callable[[bytes], None]) -> ProcessRun:
        return self._runner._start(self, on_output)

    def discard(self) -> None:
        self._runner._clean(self)


def give_tree(folder: Path, uid: int, gid: int) -> None:
    """Everything in the folder to this user; links themselves, not what they point to."""
    os.chown(folder, uid, gid, follow_symlinks=False)
    for _, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)


def _check_reachable(folder: Path) -> None:
    for parent in folder.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            raise RunRefusedError(
                f"the unprivileged user of tasks cannot get through {parent}: "
                "install bubblewrap on this node, or keep the agent's data elsewhere"
            )


def _lock_dir(wanted: Path, state_dir: Path) -> Path:
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return state_dir / "users"
    return wanted
