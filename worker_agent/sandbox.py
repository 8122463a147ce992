"""Turns what an attempt may use into container options and sandbox command lines. Pure: no I/O, no clock.

Every limit of a run is decided here, so that one file shows what a task can and cannot do.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_agent.runners.base import RunSpec

WORK = "/work"
DEPENDENCIES = "/deps"
LABEL_NODE = "hivemind.node"
LABEL_ATTEMPT = "hivemind.attempt"
LABEL_WORKDIR_BYTES = "hivemind.workdir_bytes"
ATTEMPT_VARIABLE = "HIVEMIND_ATTEMPT"
MAX_OPEN_FILES = 4096
_MIN_MEMORY_BYTES = 16 << 20
_MIN_CPUS = 0.01
_CPU_SHARES_PER_CORE = 1024
_MIN_CPU_SHARES, _MAX_CPU_SHARES = 2, 1 << 18
# Among everything on the machine a task is the first to go when memory runs out.
_OOM_SCORE_ADJUSTMENT = 500
# Programs reserve far more address space than they use; what they use is bounded by RLIMIT_DATA.
_ADDRESS_SPACE_HEADROOM_BYTES = 4 << 30
_NAME_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_ULIMIT_BLOCK_BYTES = 512
# Some images have python, some only python3.
_EITHER_PYTHON = 'command -v python >/dev/null 2>&1 && exec python "$@"; exec python3 "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What a container engine can do, as far as options depend on it."""

    cpus: int
    cpu_quota: bool
    userns_remap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How requirements.txt is seen to: a script that installs and then becomes the entry."""

    script: str
    host_dir: Path  # writable by the run, beside the working directory


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTools:
    """What the machine offers to the process runner; an empty path means that it is not there."""

    python: str
    python_prefix: str  # bound into the sandbox; empty when it lies below a system path
    system_paths: tuple[tuple[str, str], ...] = ()  # (path, target of the link or "")
    network_files: tuple[str, ...] = ()
    passwd_file: str = ""
    group_file: str = ""
    open_files: int = MAX_OPEN_FILES
    prlimit: str = ""
    bwrap: str = ""
    setpriv: str = ""
    unshare: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUser:
    """Who a run's processes are. `drop_to` is None when the agent is not root: they are its own then."""

    drop_to: int | None
    # Processes that count against the same limit though they are not the run's.
    processes_besides: int = 0


def name_slug(name: str) -> str:
    """The name for use in container and file names; a hash keeps changed names apart."""
    safe = _NAME_UNSAFE.sub("-", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def attempt_slug(attempt_id: str) -> str:
    task, _, number = attempt_id.rpartition(":")
    return f"{name_slug(task)}.{name_slug(number)}"


def container_name(node_id: str, attempt_id: str) -> str:
    return f"hivemind-{name_slug(node_id)}-{attempt_slug(attempt_id)}"


def task_command(entry: str, bootstrap: Bootstrap | None, *, network: bool) -> tuple[str, list[str]]:
    """The interpreter (`sh` or `python`) and its arguments."""
    # A file called -c.py is a file, not an option.
    name = f"./{entry}" if entry.startswith("-") else entry
    interpreter = "sh" if entry.endswith(".sh") else "python"
    if bootstrap is None:
        return interpreter, [name]
    return "python", ["-c", bootstrap.script, "network" if network else "offline", interpreter, name]


def container_options(
    spec: RunSpec, *, user: str, engine: EngineFacts, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """The body of the engine's create call."""
    interpreter, arguments = task_command(spec.entry, bootstrap, network=spec.network)
    return {
        "Image": spec.image,
        # The image's own entrypoint is not ours to run.
        "Entrypoint": ["sh", "-c", _EITHER_PYTHON, "sh"] if interpreter == "python" else ["sh"],
        "Cmd": arguments,
        "WorkingDir": WORK,
        "User": user,
        "Hostname": "task",
        "Env": [f"{name}={value}" for name, value in container_environment(spec).items()],
        "Labels": {
            LABEL_NODE: spec.node_id,
            LABEL_ATTEMPT: spec.attempt_id,
            LABEL_WORKDIR_BYTES: str(spec.max_workdir_bytes),
        },
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": _host_options(spec, engine, bootstrap),
    }


def container_environment(spec: RunSpec) -> dict[str, str]:
    return {"TASK_ID": spec.task_id, "PYTHONUNBUFFERED": "1", "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108


def _host_options(spec: RunSpec, engine: EngineFacts, bootstrap: Bootstrap | None) -> dict[str, Any]:
    memory = max(spec.memory_bytes, _MIN_MEMORY_BYTES)
    mounts = [_bind(spec.work_dir, WORK)]
    if bootstrap is not None:
        mounts.append(_bind(bootstrap.host_dir, DEPENDENCIES))
    options: dict[str, Any] = {
        "NetworkMode": "bridge" if spec.network else "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={spec.tmpfs_bytes},mode=1777"},  # noqa: S108
        "ShmSize": spec.tmpfs_bytes,
        "IpcMode": "private",
        "Mounts": mounts,
        "Memory": memory,
        "MemorySwap": memory,
        "CpuShares": _cpu_shares(spec.cpus),
        "PidsLimit": spec.pids_limit,
        "Init": True,
        "Ulimits": [
            _ulimit("fsize", spec.max_workdir_bytes),
            _ulimit("nofile", MAX_OPEN_FILES),
            _ulimit("core", 0),
        ],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "OomScoreAdj": _OOM_SCORE_ADJUSTMENT,
    }
    if engine.cpu_quota:
        options["NanoCpus"] = round(min(max(spec.cpus, _MIN_CPUS), engine.cpus) * 1e9)
    if engine.userns_remap:
        # A remapped user could not own the working directory.
        options["UsernsMode"] = "host"
    if spec.gpu:
        options["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
    return options


def resize_options(spec: RunSpec, *, memory_bytes: int, cpus: float) -> dict[str, Any]:
    """For the engine's update call: soft limits only, within the hard ones of container_options."""
    hard = max(spec.memory_bytes, _MIN_MEMORY_BYTES)
    return {
        "mem_reservation": min(hard, max(memory_bytes, _MIN_MEMORY_BYTES)),
        "cpu_shares": _cpu_shares(min(cpus, spec.cpus)),
    }


def _cpu_shares(cpus: float) -> int:
    """The weight among containers that want the same cores: 1024 a core, within what kernels take."""
    return min(_MAX_CPU_SHARES, max(_MIN_CPU_SHARES, round(cpus * _CPU_SHARES_PER_CORE)))


def _bind(source: Path, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": False}


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def process_environment(
    spec: RunSpec, tools: SandboxTools, home: str, bootstrap: Bootstrap | None = None
) -> dict[str, str]:
    """Everything the task finds in its environment: nothing of the agent's own is passed on."""
    path = dict.fromkeys([str(Path(tools.python).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    environment = {
        "PATH": ":".join(path),
        "HOME": home,
        "TMPDIR": home,
        "USER": "task",
        "LOGNAME": "task",
        "LANG": "C.UTF-8",
        "TASK_ID": spec.task_id,
        "PYTHONUNBUFFERED": "1",
        ATTEMPT_VARIABLE: spec.attempt_id,
    }
    if bootstrap is not None:
        environment["HIVEMIND_DEPS"] = DEPENDENCIES if tools.bwrap else str(bootstrap.host_dir)
    return environment


def process_command(
    spec: RunSpec,
    tools: SandboxTools,
    user: TaskUser,
    *,
    bootstrap: Bootstrap | None = None,
    status_descriptor: int | None = None,
) -> list[str]:
    """The whole command line: limits, then namespaces, then the user, then the task.

    Namespaces are made before root is given up, so that an unprivileged user needs no user
    namespace, whose surface in the kernel is large.
    """
    interpreter, arguments = task_command(spec.entry, bootstrap, network=spec.network)
    task = [tools.python if interpreter == "python" else "/bin/sh", *arguments]
    if tools.setpriv:
        task = [*_drop(tools.setpriv, user.drop_to), *task]
    if tools.bwrap:
        task = [*_bubblewrap(spec, tools, user, bootstrap, status_descriptor), *task]
    elif tools.unshare and not spec.network:
        task = [tools.unshare, "--net", "--ipc", "--", *task]
    return [*_limits(spec, tools, user), *task]


def _drop(setpriv: str, uid: int | None) -> list[str]:
    options = ["--no-new-privs", "--inh-caps=-all"]
    if uid is not None:
        options += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all"]
    return [setpriv, *options, "--"]


def _limits(spec: RunSpec, tools: SandboxTools, user: TaskUser) -> list[str]:
    memory = max(spec.memory_bytes, _MIN_MEMORY_BYTES)
    processes = spec.pids_limit + user.processes_besides
    cpu_seconds = int(spec.max_run_seconds * max(1.0, spec.cpus)) + 60
    address_space = 2 * memory + _ADDRESS_SPACE_HEADROOM_BYTES
    if tools.prlimit:
        return [
            tools.prlimit,
            f"--data={memory}:{memory}",
            f"--as={address_space}:{address_space}",
            f"--fsize={spec.max_workdir_bytes}:{spec.max_workdir_bytes}",
            f"--nproc={processes}:{processes}",
            f"--nofile={tools.open_files}:{tools.open_files}",
            "--core=0:0",
            f"--cpu={cpu_seconds}:{cpu_seconds}",
            "--",
        ]
    # dash and busybox spell the number of processes -p, bash spells it -u.
    script = (
        f"ulimit -d {memory >> 10}; ulimit -v {address_space >> 10}; "
        f"ulimit -f {spec.max_workdir_bytes // _ULIMIT_BLOCK_BYTES}; "
        f"ulimit -u {processes} 2>/dev/null || ulimit -p {processes}; "
        f'ulimit -n {tools.open_files}; ulimit -c 0; ulimit -t {cpu_seconds}; exec "$@"'
    )
    return ["/bin/sh", "-c", script, "sh"]


def _shown(tools: SandboxTools, *, network: bool) -> list[str]:
    """What a task sees of this machine, all of it read-only."""
    options = []
    for folder in _parents(tools):
        options += ["--dir", folder]
    for path, link in tools.system_paths:
        options += ["--symlink", link, path] if link else ["--ro-bind", path, path]
    if tools.python_prefix:
        options += ["--ro-bind", tools.python_prefix, tools.python_prefix]
    for path in tools.network_files if network else ():
        options += ["--ro-bind-try", path, path]
    if tools.passwd_file and tools.group_file:
        options += [
            "--ro-bind",
            tools.passwd_file,
            "/etc/passwd",
            "--ro-bind",
            tools.group_file,
            "/etc/group",
        ]
    return options


def _parents(tools: SandboxTools) -> list[str]:
    """Folders that bubblewrap would make for itself alone, and closed to the task's user."""
    shown = [*(path for path, _ in tools.system_paths), tools.python_prefix or "/", "/etc/passwd"]
    parents = {str(parent) for path in shown for parent in Path(path).parents}
    return sorted(parents - {"/"} - {path for path, _ in tools.system_paths})


def _bubblewrap(
    spec: RunSpec,
    tools: SandboxTools,
    user: TaskUser,
    bootstrap: Bootstrap | None,
    status_descriptor: int | None,
) -> list[str]:
    command = [tools.bwrap, "--die-with-parent", "--new-session", "--hostname", "task"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if user.drop_to is None:
        command.append("--unshare-user")
    if not spec.network:
        command.append("--unshare-net")
    if status_descriptor is not None:
        command += ["--json-status-fd", str(status_descriptor)]
    command += _shown(tools, network=spec.network)
    size = str(spec.tmpfs_bytes)
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"]  # noqa: S108
    command += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp"]  # noqa: S108
    command += ["--bind", str(spec.work_dir), WORK]
    if bootstrap is not None:
        command += ["--bind", str(bootstrap.host_dir), DEPENDENCIES]
    # What bubblewrap builds on is a tmpfs without a bound of its own.
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK, "--"]
    return command
