"""Turns what an attempt may use into a plan for the launcher of processes. Pure: no I/O, no clock.

Every limit of a process is decided here, so that one file shows what a task can and cannot do.
`worker_agent.runners.sandbox` does the same for containers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from worker_agent.runners import seccomp
from worker_agent.runners.base import RunSpec
from worker_agent.runners.launcher import FILTER_FD, STATUS_FD
from worker_agent.runners.sandbox import (
    ATTEMPT_VARIABLE,
    DEPENDENCIES,
    MAX_OPEN_FILES,
    MIN_MEMORY_BYTES,
    OOM_SCORE_ADJUSTMENT,
    SHOWN_INPUTS,
    WORK,
    Bootstrap,
    task_command,
)

_TMP, _VAR_TMP, _SHM = "/tmp", "/var/tmp", "/dev/shm"  # noqa: S108  the sandbox's own
# Programs reserve far more address space than they use; what they use is bounded by RLIMIT_DATA.
_ADDRESS_SPACE_HEADROOM_BYTES = 4 << 30
# dash and busybox spell the number of processes -p, bash spells it -u.
_LIMIT_PROCESSES = 'ulimit -u "$0" 2>/dev/null || ulimit -p "$0"; exec "$@"'
_BUBBLEWRAPS_OWN = 1


class Sandbox(StrEnum):
    """How the launcher keeps a run apart, the strongest first."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"  # made by the launcher itself, as root
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTools:
    """What the machine offers to the process runner; an empty path means that it is not there."""

    python: str
    python_prefix: str  # bound into the sandbox; empty when it lies below a system path
    sandbox: Sandbox = Sandbox.NONE
    system_paths: tuple[tuple[str, str], ...] = ()  # (path, target of the link or "")
    network_files: tuple[str, ...] = ()
    passwd_file: str = ""
    group_file: str = ""
    open_files: int = MAX_OPEN_FILES
    machine: str = ""
    bwrap: str = ""
    setpriv: str = ""
    disable_userns: bool = False  # bubblewrap can forbid user namespaces inside
    scoped: bool = True  # abstract sockets of others are closed, where the kernel can
    counts_by_namespace: bool = False  # a limit on processes set in a user namespace counts those in it alone

    @property
    def separate(self) -> bool:
        """Whether a run has a root, a process table and a /tmp of its own."""
        return self.sandbox is not Sandbox.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUser:
    """Who a run's processes are. `drop_to` is None when the agent is not root: they are its own then."""

    drop_to: int | None
    # Processes that count against the same limit though they are not the run's.
    processes_besides: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where on the machine a run is put."""

    home: str = _TMP
    group_files: tuple[str, ...] = ()  # where a process joins the run's control groups
    memory_counted: bool = False  # by a control group
    time_bounded: bool = False  # by a control group
    cores: Collection[int] = ()


def run_plan(
    spec: RunSpec, tools: SandboxTools, user: TaskUser, place: Place, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """What `worker_agent.runners.launcher` reads."""
    interpreter, arguments = task_command(spec, bootstrap)
    command = [tools.python if interpreter == "python" else "/bin/sh", *arguments]
    filter_program = seccomp.program(tools.machine, _surface(spec, tools, place))
    if tools.sandbox is Sandbox.BUBBLEWRAP:
        if user.drop_to is not None:
            command = [*_drop(tools.setpriv, user.drop_to), *command]
        elif tools.counts_by_namespace:
            command = ["/bin/sh", "-c", _LIMIT_PROCESSES, str(spec.pids_limit + _BUBBLEWRAPS_OWN), *command]
        command = [*_bubblewrap(spec, tools, user, bootstrap, filtered=filter_program is not None), *command]
    plan = {
        "sandbox": str(tools.sandbox),
        "command": command,
        "environment": process_environment(spec, tools, place.home, bootstrap),
        "folder": WORK if tools.separate else str(spec.work_dir),
        "user": user.drop_to,
        "network": spec.network,
        "limits": _limits(spec, tools, user),
        "cgroups": list(place.group_files),
        "cores": sorted(place.cores),
        "oom_score": OOM_SCORE_ADJUSTMENT,
        "filter": filter_program.hex() if filter_program else "",
        "scoped": tools.scoped,
    }
    if tools.sandbox is Sandbox.NAMESPACES:
        plan |= _view(spec, tools, bootstrap)
    return plan


def process_environment(
    spec: RunSpec, tools: SandboxTools, home: str, bootstrap: Bootstrap | None = None
) -> dict[str, str]:
    """Everything the task finds in its environment: nothing of the agent's own is passed on."""
    path = dict.fromkeys([str(Path(tools.python).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    environment = {
        "LANG": "C.UTF-8",
        **spec.environment,
        **spec.secrets,
        "PATH": ":".join(path),
        "HOME": home,
        "TMPDIR": home,
        "USER": "task",
        "LOGNAME": "task",
        "TASK_ID": spec.task_id,
        "PYTHONUNBUFFERED": "1",
        ATTEMPT_VARIABLE: spec.attempt_id,
    }
    if bootstrap is not None:
        environment["HIVEMIND_DEPS"] = DEPENDENCIES if tools.separate else str(bootstrap.host_dir)
    return environment


def _surface(spec: RunSpec, tools: SandboxTools, place: Place) -> seccomp.Surface:
    return seccomp.Surface(
        ipc=tools.separate,
        shared_memory=place.memory_counted,
        # In a network namespace of its own it leads nowhere.
        internet=tools.separate or spec.network,
        affinity=place.time_bounded,
    )


def _limits(spec: RunSpec, tools: SandboxTools, user: TaskUser) -> dict[str, int]:
    memory = max(spec.memory_bytes, MIN_MEMORY_BYTES)
    limits = {
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": 2 * memory + _ADDRESS_SPACE_HEADROOM_BYTES,
        "RLIMIT_FSIZE": spec.max_workdir_bytes,
        "RLIMIT_NPROC": spec.pids_limit + user.processes_besides,
        "RLIMIT_NOFILE": tools.open_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": int(spec.max_run_seconds * max(1.0, spec.cpus)) + 60,
    }
    if tools.sandbox is Sandbox.BUBBLEWRAP and user.drop_to is None and tools.counts_by_namespace:
        # Out here the agent's other runs count as well, and one would take what another is to have.
        del limits["RLIMIT_NPROC"]
    return limits


def _drop(setpriv: str, uid: int) -> list[str]:
    """Namespaces are made before root is given up, so that an unprivileged user needs no user namespace,
    whose surface in the kernel is large."""
    options = ["--no-new-privs", "--inh-caps=-all", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [setpriv, *options, "--bounding-set=-all", "--"]


def _shown(tools: SandboxTools, *, network: bool) -> list[tuple[str, str]]:
    """Files and folders of this machine that a task sees, all of them read-only: (source, path)."""
    shown = [(path, path) for path, link in tools.system_paths if not link]
    if tools.python_prefix:
        shown.append((tools.python_prefix, tools.python_prefix))
    if network:
        shown += [(path, path) for path in tools.network_files]
    if tools.passwd_file and tools.group_file:
        shown += [(tools.passwd_file, "/etc/passwd"), (tools.group_file, "/etc/group")]
    return shown


def _links(tools: SandboxTools) -> list[tuple[str, str]]:
    """(target, path)"""
    return [(link, path) for path, link in tools.system_paths if link] + [(_TMP, _VAR_TMP)]


def _parents(tools: SandboxTools) -> list[str]:
    """Folders that bubblewrap would make for itself alone, and closed to the task's user."""
    shown = [*(path for path, _ in tools.system_paths), tools.python_prefix or "/", "/etc/passwd", _VAR_TMP]
    parents = {str(parent) for path in shown for parent in Path(path).parents}
    return sorted(parents - {"/"} - {path for path, _ in tools.system_paths})


def _own(spec: RunSpec, bootstrap: Bootstrap | None) -> list[tuple[str, str]]:
    """What a task can write to: (source, path)."""
    own = [(str(spec.work_dir), WORK)]
    return own if bootstrap is None else [*own, (str(bootstrap.host_dir), DEPENDENCIES)]


def _inputs(spec: RunSpec) -> list[tuple[str, str]]:
    """What other steps made, within its working directory and read-only: (source, path)."""
    return [] if spec.inputs_dir is None else [(str(spec.inputs_dir), SHOWN_INPUTS)]


def _view(spec: RunSpec, tools: SandboxTools, bootstrap: Bootstrap | None) -> dict[str, Any]:
    return {
        "folders": _parents(tools),
        "shown": _shown(tools, network=spec.network),
        "links": _links(tools),
        "own": _own(spec, bootstrap),
        "inputs": _inputs(spec),
        "tmpfs_bytes": spec.tmpfs_bytes,
    }


def _bubblewrap(
    spec: RunSpec, tools: SandboxTools, user: TaskUser, bootstrap: Bootstrap | None, *, filtered: bool
) -> list[str]:
    command = [tools.bwrap, "--die-with-parent", "--new-session", "--hostname", "task"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if user.drop_to is None:
        command.append("--unshare-user")
        if tools.disable_userns:
            command.append("--disable-userns")
    if not spec.network:
        command.append("--unshare-net")
    command += ["--json-status-fd", str(STATUS_FD)]
    if filtered:
        command += ["--seccomp", str(FILTER_FD)]
    for folder in _parents(tools):
        command += ["--dir", folder]
    for target, path in _links(tools):
        command += ["--symlink", target, path]
    for source, path in _shown(tools, network=spec.network):
        command += ["--ro-bind-try" if path in tools.network_files else "--ro-bind", source, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in (_SHM, _TMP):
        command += ["--perms", "1777", "--size", str(spec.tmpfs_bytes), "--tmpfs", path]
    command += [word for pair in _own(spec, bootstrap) for word in ("--bind", *pair)]
    command += [word for pair in _inputs(spec) for word in ("--ro-bind", *pair)]
    # What bubblewrap builds on is a tmpfs without a bound of its own.
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK, "--"]
    return command
