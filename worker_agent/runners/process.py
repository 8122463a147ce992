"""Runs attempts as processes: own user, limits, control groups, and namespaces where the machine has them.

Weaker than a container whatever the machine offers, which is why such a node is of low trust. What
a run may do is decided in `worker_agent.runners.plan`; here it is started, watched and ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.tasks.flows import INPUTS
from nodepool.domain.tasks.reasons import ReasonCode
from worker_agent import tree_removal
from worker_agent.runners import cgroups, orphans, proc
from worker_agent.runners.base import RunRefusedError, RunSpec, code_of_os_error
from worker_agent.runners.cgroups import ControlGroups, GroupLimits, RunGroup
from worker_agent.runners.cpu_shares import CoreShares, UserPool
from worker_agent.runners.plan import Place, Sandbox, SandboxTools, TaskUser, run_plan
from worker_agent.runners.process_run import ProcessRun, StartedProcess
from worker_agent.runners.requirements import bootstrap_for
from worker_agent.runners.sandbox import Bootstrap, attempt_slug
from worker_agent.runners.spawner import Spawner
from worker_agent.runners.tools import FIRST_UID, UID_COUNT, agents_python, find_tools
from worker_agent.runners.watch import Watcher
from worker_agent.trash import remove_tree

log = structlog.get_logger(__name__)

DEFAULT_LOCK_DIR = Path("/run/hivemind-users")
_SANDBOX_HOME = "/tmp"  # noqa: S108  the sandbox's own
_RECORDS = "runs"
_HOMES = "homes"
_TRIAL_SECONDS = 10
_TRIAL_GROUP = GroupLimits(memory_bytes=256 << 20, processes=64, cpus=1.0)
_JOINS = 'for file; do echo 0 > "$file" || exit 1; done; kill -STOP $$'


class ProcessRunner:
    """`state_dir` is this runner's own: nothing else writes there, and no other agent uses it."""

    name = "process"

    def __init__(
        self,
        state_dir: Path,
        *,
        lock_dir: Path = DEFAULT_LOCK_DIR,
        use_bubblewrap: bool = True,
        use_namespaces: bool = True,
    ) -> None:
        """Tries what the machine offers, which takes some tens of milliseconds.

        Raises RunRefusedError when tasks could not run here at all.
        """
        self._as_root = os.geteuid() == 0
        self._state_dir = state_dir
        for folder in (state_dir, state_dir / _RECORDS, state_dir / _HOMES):
            folder.mkdir(parents=True, exist_ok=True)
        self._spawner = Spawner(agents_python())
        try:
            self.tools = find_tools(
                state_dir,
                self._try_run,
                as_root=self._as_root,
                use_bubblewrap=use_bubblewrap,
                use_namespaces=use_namespaces,
            )
            name = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
            self.groups = cgroups.find_groups(name, self._try_group)
        except BaseException:
            self._spawner.close()
            raise
        self._users = UserPool(FIRST_UID, UID_COUNT, _lock_dir(lock_dir, state_dir))
        self._cores = CoreShares(os.sched_getaffinity(0))
        self._watcher = Watcher("process-watcher")
        log.info(
            "how tasks are kept apart on this machine",
            action="runner.isolation",
            isolation=str(self.isolation),
            sandbox=str(self.tools.sandbox),
            limits=str(self.groups or "limits of processes, and counting"),
        )

    @property
    def isolation(self) -> Isolation:
        return {
            Sandbox.BUBBLEWRAP: Isolation.BUBBLEWRAP,
            Sandbox.NAMESPACES: Isolation.USER,
            Sandbox.NONE: Isolation.NONE,
        }[self.tools.sandbox]

    def prepare(self, spec: RunSpec) -> PreparedProcess:
        if spec.gpu:
            raise RunRefusedError(
                "this node runs tasks without containers, and so without its GPU", ReasonCode.CANNOT_GIVE
            )
        if self._as_root and not self.tools.separate:
            _check_reachable(spec.work_dir)
        user = self._user()
        bootstrap = bootstrap_for(spec.work_dir)
        home = None if self.tools.separate else self._state_dir / _HOMES / attempt_slug(spec.attempt_id)
        if home is not None:
            home.mkdir(exist_ok=True)
        prepared = PreparedProcess(self, spec, user, bootstrap, home)
        try:
            for folder in (spec.work_dir, *prepared.own_folders):
                if user.drop_to is not None:
                    give_tree(folder, user.drop_to, user.drop_to)
                folder.chmod(0o700)
            if spec.inputs_dir is not None and not self.tools.separate:
                # Without a view of its own the run follows a link; the files are not its user's.
                link = spec.work_dir / INPUTS
                link.rmdir()
                link.symlink_to(spec.inputs_dir)
        except BaseException:
            prepared.discard()
            raise
        return prepared

    def reap(self, keep: Collection[str]) -> int:
        kept = {attempt_slug(attempt_id) for attempt_id in keep}
        ended = orphans.end_recorded(
            self._state_dir / _RECORDS, keep, self._users.owns_or_locks if self._as_root else None
        )
        self._users.clear()
        if self.groups is not None:
            self.groups.end_left(kept)
        for home in (self._state_dir / _HOMES).iterdir():
            if home.name not in kept:
                remove_tree(home)
        return ended

    @property
    def disks(self) -> tuple[Path, ...]:
        return (self._state_dir,)

    def has_more_images(self) -> bool:
        return False

    def problem(self) -> str:
        return ""

    def close(self) -> None:
        self._watcher.close()
        self._spawner.close()
        self._users.close()
        if self.groups is not None:
            self.groups.close()

    def _user(self) -> TaskUser:
        if self._as_root:
            return TaskUser(drop_to=self._users.acquire())
        if self.tools.counts_by_namespace and self.tools.separate:
            return TaskUser(drop_to=None)
        return TaskUser(drop_to=None, processes_besides=proc.threads_of_user(os.geteuid()))

    def _start(self, prepared: PreparedProcess, on_output: Callable[[bytes], None]) -> ProcessRun:
        spec = prepared.spec
        cores = self._cores.take(spec.cpus)
        group: RunGroup | None = None
        try:
            group = self._group(spec)
            started = self._launch(prepared, cores, group)
        except BaseException as error:
            self._cores.give_back(cores)
            if group is not None:
                group.end()
            self._clean(prepared)
            if isinstance(error, OSError):
                raise RunRefusedError(
                    f"the task's process cannot be started: {error}", code_of_os_error(error)
                ) from error
            raise
        record = orphans.record(
            self._state_dir / _RECORDS, spec.attempt_id, started.launched.pid, started.uid
        )

        def clean() -> None:
            record.unlink(missing_ok=True)
            self._cores.give_back(cores)
            self._clean(prepared)

        folders = (spec.work_dir, *prepared.own_folders)
        return ProcessRun(spec, started, on_output, self._watcher, folders, prepared.bootstrap, clean)

    def _group(self, spec: RunSpec) -> RunGroup | None:
        """Raises OSError: a run without the limits that this machine has for others is not begun."""
        if self.groups is None:
            return None
        limits = GroupLimits(memory_bytes=spec.memory_bytes, processes=spec.pids_limit + 2, cpus=spec.cpus)
        return self.groups.make(attempt_slug(spec.attempt_id), limits)

    def _launch(
        self, prepared: PreparedProcess, cores: Collection[int], group: RunGroup | None
    ) -> StartedProcess:
        place = Place(
            home=_SANDBOX_HOME if prepared.home is None else str(prepared.home),
            group_files=() if group is None else group.join_files,
            memory_counted=group is not None,
            time_bounded=group is not None and group.bounds_time,
            cores=cores,
        )
        plan = run_plan(prepared.spec, self.tools, prepared.user, place, prepared.bootstrap)
        launched = self._spawner.launch(plan)
        return StartedProcess(launched, prepared.user.drop_to, self.tools.separate, group)

    def _try_run(self, tools: SandboxTools, spec: RunSpec, user: TaskUser) -> bool:
        return self._spawner.succeeds(run_plan(spec, tools, user, Place()), _TRIAL_SECONDS)

    def _try_group(self, groups: ControlGroups) -> bool:
        """A process in a group that is limited, and seen there. Raises OSError."""
        group = groups.make("trial", _TRIAL_GROUP)
        try:
            joined = subprocess.Popen(
                ["/bin/sh", "-c", _JOINS, "sh", *group.join_files],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.waitid(os.P_PID, joined.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            seen = joined.pid in group.processes()
            joined.kill()
            joined.wait()
            return seen
        finally:
            group.end()

    def _clean(self, prepared: PreparedProcess) -> None:
        for folder in prepared.own_folders:
            with contextlib.suppress(OSError):
                remove_tree(folder)
        if prepared.user.drop_to is None:
            return
        if not self.tools.separate:
            # The next run of this user finds its way to any folder of the machine.
            with contextlib.suppress(OSError):
                give_tree(prepared.spec.work_dir, os.geteuid(), os.getegid())
        self._users.release(prepared.user.drop_to, alone=self.tools.separate)


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
    tree_removal.give(folder, uid, gid)


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
