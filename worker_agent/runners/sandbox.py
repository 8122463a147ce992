"""Turns what an attempt may use into the options of a container. Pure: no I/O, no clock.

Every limit of a container is decided here, so that one file shows what a task can and cannot do.
`worker_agent.runners.plan` does the same for processes.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodepool.domain.tasks.flows import INPUTS
from worker_agent.runners.base import RunSpec

WORK = "/work"
SHOWN_INPUTS = f"{WORK}/{INPUTS}"
DEPENDENCIES = "/deps"
_TMP = "/tmp"  # noqa: S108
LABEL_NODE = "hivemind.node"
LABEL_ATTEMPT = "hivemind.attempt"
LABEL_WORKDIR_BYTES = "hivemind.workdir_bytes"
LABEL_WARM = "hivemind.warm"
ATTEMPT_VARIABLE = "HIVEMIND_ATTEMPT"
MAX_OPEN_FILES = 4096
MIN_MEMORY_BYTES = 16 << 20
MIN_CPUS = 0.01
_CPU_SHARES_PER_CORE = 1024
_MIN_CPU_SHARES, _MAX_CPU_SHARES = 2, 1 << 18
# Among everything on the machine a task is the first to go when memory runs out.
OOM_SCORE_ADJUSTMENT = 500
# The first process of a sandbox that is kept warm: its tasks go before it, and its memory is not theirs.
_WARM_OOM_SCORE_ADJUSTMENT = 400
WARM_BYTES = 8 << 20
_CPU_PERIOD_MICROSECONDS = 100_000
_NAME_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
# How a container's shell takes secrets from its stdin, of which the engine keeps nothing: NAME=VALUE on each
# line, in `secrets_input`'s writing, and an empty line at the end. Without that the task does not begin.
_TAKE_SECRETS = """\
while IFS= read -r HIVEMIND_LINE; do
  if [ -z "$HIVEMIND_LINE" ]; then unset HIVEMIND_LINE HIVEMIND_VALUE; exec "$@" </dev/null; fi
  HIVEMIND_VALUE=$(printf '%bx' "${HIVEMIND_LINE#*=}")
  export "${HIVEMIND_LINE%%=*}=${HIVEMIND_VALUE%x}"
done
echo 'the secrets of the task did not arrive' >&2
exit 1"""
_AS_IT_IS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,@+=")
# Some images have python, some only python3.
_EITHER_PYTHON = 'command -v python >/dev/null 2>&1 && exec python "$@"; exec python3 "$@"'
_PYTHON = ["sh", "-c", _EITHER_PYTHON, "sh"]


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


def name_slug(name: str) -> str:
    """The name for use in container and file names; a hash keeps changed names apart."""
    safe = _NAME_UNSAFE.sub("-", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def attempt_slug(attempt_id: str) -> str:
    task, _, number = attempt_id.rpartition(":")
    return f"{name_slug(task)}.{name_slug(number)}"


def container_name(node_id: str, attempt_id: str) -> str:
    return f"hivemind-{name_slug(node_id)}-{attempt_slug(attempt_id)}"


def task_command(spec: RunSpec, bootstrap: Bootstrap | None) -> tuple[str, list[str]]:
    """The interpreter (`sh` or `python`) and its arguments, of which the last are the task's own."""
    entry = spec.entry
    # A file called -c.py is a file, not an option.
    name = f"./{entry}" if entry.startswith("-") else entry
    interpreter = "sh" if entry.endswith(".sh") else "python"
    if bootstrap is None:
        return interpreter, [name, *spec.arguments]
    mode = "network" if spec.network else "offline"
    return "python", ["-c", bootstrap.script, mode, interpreter, name, *spec.arguments]


def container_options(
    spec: RunSpec,
    *,
    user: str,
    engine: EngineFacts,
    bootstrap: Bootstrap | None = None,
    volumes: Collection[str] = (),
) -> dict[str, Any]:
    """The body of the engine's create call. `volumes` are the folders that the image declares as such."""
    interpreter, arguments = task_command(spec, bootstrap)
    # The image's own entrypoint is not ours to run.
    entrypoint = _PYTHON if interpreter == "python" else ["sh"]
    return {
        "Image": spec.image,
        "Entrypoint": ["sh", "-c", _TAKE_SECRETS, "sh", *entrypoint] if spec.secrets else entrypoint,
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
        "AttachStdin": bool(spec.secrets),
        "OpenStdin": bool(spec.secrets),
        "StdinOnce": bool(spec.secrets),
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},  # the image's would run beside the task
        "HostConfig": _host_options(spec, engine, bootstrap, volumes),
    }


def secrets_input(secrets: Mapping[str, str]) -> bytes:
    """What a container's shell reads of its secrets; nothing where there are none."""
    if not secrets:
        return b""
    lines = [f"{name}={_written(value)}" for name, value in secrets.items()]
    return "\n".join([*lines, "", ""]).encode()


def _written(value: str) -> str:
    """In what every shell's printf reads: all but plain letters as octal numbers."""
    return "".join(chr(byte) if byte in _AS_IT_IS else f"\\0{byte:03o}" for byte in value.encode())


def container_environment(spec: RunSpec) -> dict[str, str]:
    own = {"TASK_ID": spec.task_id, "PYTHONUNBUFFERED": "1", "HOME": _TMP}
    return {"LANG": "C.UTF-8", **spec.environment, **own}


def _host_options(
    spec: RunSpec, engine: EngineFacts, bootstrap: Bootstrap | None, volumes: Collection[str]
) -> dict[str, Any]:
    memory = max(spec.memory_bytes, MIN_MEMORY_BYTES)
    mounts = [_bind(spec.work_dir, WORK)]
    if spec.inputs_dir is not None:
        mounts.append({**_bind(spec.inputs_dir, SHOWN_INPUTS), "ReadOnly": True})
    if bootstrap is not None:
        mounts.append(_bind(bootstrap.host_dir, DEPENDENCIES))
    taken = {mount["Target"] for mount in mounts} | {_TMP}
    declared = {posixpath.normpath(path) for path in volumes}
    mounts += [_memory(path, spec.tmpfs_bytes) for path in sorted(declared - taken)]
    options: dict[str, Any] = {
        "NetworkMode": "bridge" if spec.network else "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Tmpfs": {_TMP: f"rw,exec,nosuid,nodev,size={spec.tmpfs_bytes},mode=1777"},
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
        "OomScoreAdj": OOM_SCORE_ADJUSTMENT,
    }
    if engine.cpu_quota:
        options["NanoCpus"] = round(min(max(spec.cpus, MIN_CPUS), engine.cpus) * 1e9)
    if engine.userns_remap:
        # A remapped user could not own the working directory.
        options["UsernsMode"] = "host"
    if spec.gpu:
        options["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
    return options


def warm_options(
    spec: RunSpec, boot: str, *, user: str, engine: EngineFacts, volumes: Collection[str] = ()
) -> dict[str, Any]:
    """Of a container in which tasks of such limits are begun later, by a program that `boot` reads from its
    stdin. Nothing of a task is in it."""
    unnamed = replace(spec, arguments=(), environment={}, secrets={}, inputs_dir=None)
    options = container_options(unnamed, user=user, engine=engine, volumes=volumes)
    environment = {name: value for name, value in container_environment(unnamed).items() if name != "TASK_ID"}
    options |= {
        "Entrypoint": _PYTHON,
        "Cmd": ["-c", boot],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": {
            LABEL_NODE: spec.node_id,
            LABEL_WARM: "1",
            LABEL_WORKDIR_BYTES: str(spec.max_workdir_bytes),
        },
        "AttachStdin": True,
        "OpenStdin": True,
        "StdinOnce": True,  # it ends with whoever holds its line
    }
    host = options["HostConfig"]
    memory = _warm_memory(spec)
    host |= {"Init": False, "OomScoreAdj": _WARM_OOM_SCORE_ADJUSTMENT, "Memory": memory, "MemorySwap": memory}
    if host.pop("NanoCpus", None) is not None:
        # What can be changed later, by the same numbers.
        host |= {"CpuPeriod": _CPU_PERIOD_MICROSECONDS, "CpuQuota": _cpu_quota(spec.cpus, engine)}
    return options


def warm_limits(spec: RunSpec, engine: EngineFacts) -> dict[str, Any]:
    """For the engine's update call: the hard limits of `warm_options`."""
    memory = _warm_memory(spec)
    limits = {"mem_limit": memory, "memswap_limit": memory, "cpu_shares": _cpu_shares(spec.cpus)}
    if engine.cpu_quota:
        limits |= {"cpu_period": _CPU_PERIOD_MICROSECONDS, "cpu_quota": _cpu_quota(spec.cpus, engine)}
    return limits


def warm_command(spec: RunSpec) -> tuple[list[str], int]:
    """The same words that a container of its own would begin with; how many of them are a Python script's."""
    interpreter, arguments = task_command(spec, None)
    if interpreter == "python":
        return [*_PYTHON, *arguments], len(arguments)
    return ["sh", *arguments], 0


def warm_environment(spec: RunSpec) -> dict[str, str]:
    return {**container_environment(spec), **spec.secrets}


def _warm_memory(spec: RunSpec) -> int:
    return max(spec.memory_bytes, MIN_MEMORY_BYTES) + WARM_BYTES


def _cpu_quota(cpus: float, engine: EngineFacts) -> int:
    return round(min(max(cpus, MIN_CPUS), engine.cpus) * _CPU_PERIOD_MICROSECONDS)


def resize_options(spec: RunSpec, *, memory_bytes: int, cpus: float) -> dict[str, Any]:
    """For the engine's update call: soft limits only, within the hard ones of container_options."""
    hard = max(spec.memory_bytes, MIN_MEMORY_BYTES)
    return {
        "mem_reservation": min(hard, max(memory_bytes, MIN_MEMORY_BYTES)),
        "cpu_shares": _cpu_shares(min(cpus, spec.cpus)),
    }


def _cpu_shares(cpus: float) -> int:
    """The weight among containers that want the same cores: 1024 a core, within what kernels take."""
    return min(_MAX_CPU_SHARES, max(_MIN_CPU_SHARES, round(cpus * _CPU_SHARES_PER_CORE)))


def _bind(source: Path, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": False}


def _memory(target: str, size: int) -> dict[str, Any]:
    """In place of a volume, which would be a folder on the machine's disk without a bound."""
    return {"Type": "tmpfs", "Target": target, "TmpfsOptions": {"SizeBytes": size, "Mode": 0o1777}}


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}
