"""Finds what this machine offers for sandboxing processes, by trying it. Runs once, at start."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from worker_agent.runners.base import RunRefusedError, RunSpec
from worker_agent.runners.plan import Sandbox, SandboxTools, TaskUser
from worker_agent.runners.sandbox import MAX_OPEN_FILES

# 60706 to 61183 is the range that systemd leaves unused: below are home and container users, above
# its dynamic ones.
FIRST_UID = 60_800
UID_COUNT = 256
_COUNTS_BY_NAMESPACE = (5, 14)  # Linux
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32", "/nix/store", "/gnu/store")
_SYSTEM_FILES = (
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
)
_PYTHONS = ("/usr/local/bin/python3", "/usr/bin/python3")
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf")


def find_tools(
    state_dir: Path,
    try_run: Callable[[SandboxTools, RunSpec, TaskUser], bool],
    *,
    as_root: bool,
    use_bubblewrap: bool = True,
    use_namespaces: bool = True,
) -> SandboxTools:
    """`state_dir` gets the files of users and groups that a sandbox is shown; `try_run` runs a task for real.

    Raises RunRefusedError when tasks could not run here at all.
    """
    passwd, group = _user_files(state_dir, as_root=as_root)
    python, prefix = _python(state_dir, hidden_is_fine=True)
    tools = SandboxTools(
        python=python,
        python_prefix=prefix,
        system_paths=tuple(_system_paths()),
        network_files=tuple(path for path in _NETWORK_FILES if Path(path).exists()),
        passwd_file=str(passwd),
        group_file=str(group),
        open_files=_open_files(),
        machine=os.uname().machine,
        setpriv=shutil.which("setpriv") or "",
        counts_by_namespace=_release() >= _COUNTS_BY_NAMESPACE,
    )
    candidates = _separate(tools, as_root=as_root, use_bubblewrap=use_bubblewrap)
    for candidate in candidates if use_namespaces else ():
        if _works(candidate, try_run, state_dir, as_root=as_root):
            return candidate
    # Without a root of its own a run sees the machine's files, and the interpreter must be open to its user.
    python, _ = _python(state_dir, hidden_is_fine=not as_root)
    return replace(tools, python=python, python_prefix="")


def _separate(tools: SandboxTools, *, as_root: bool, use_bubblewrap: bool) -> Iterator[SandboxTools]:
    """What would keep a run apart here, the strongest first."""
    if use_bubblewrap and (found := shutil.which("bwrap")) and (tools.setpriv or not as_root):
        bubblewrap = replace(tools, sandbox=Sandbox.BUBBLEWRAP, bwrap=found)
        if not as_root:
            yield replace(bubblewrap, disable_userns=True)
        yield bubblewrap
        # One that is setuid, or allowed more by its profile, may not be so any more once it is scoped.
        if not as_root:
            yield replace(bubblewrap, disable_userns=True, scoped=False)
        yield replace(bubblewrap, scoped=False)
    if as_root:
        yield replace(tools, sandbox=Sandbox.NAMESPACES)


def _release() -> tuple[int, int]:
    major, _, rest = os.uname().release.partition(".")
    minor = "".join(itertools.takewhile(str.isdigit, rest))
    return (int(major), int(minor)) if major.isdigit() and minor else (0, 0)


def agents_python() -> str:
    """What the launcher runs with: the agent's own, or the machine's where that cannot be started again."""
    return sys.executable if os.access(sys.executable, os.X_OK) else shutil.which("python3") or sys.executable


def _open_files() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)


def _works(
    tools: SandboxTools,
    try_run: Callable[[SandboxTools, RunSpec, TaskUser], bool],
    state_dir: Path,
    *,
    as_root: bool,
) -> bool:
    """A real run that writes a file: what this machine forbids is found here, not by a task."""
    with tempfile.TemporaryDirectory(dir=state_dir, prefix="probe-") as name:
        work_dir = Path(name)
        (work_dir / "run.sh").write_text("echo done > done\n")
        user = TaskUser(drop_to=FIRST_UID if as_root else None, processes_besides=10_000)
        if user.drop_to is not None:
            os.chown(work_dir, user.drop_to, user.drop_to)
        work_dir.chmod(0o755)
        spec = RunSpec(
            attempt_id="probe:1",
            task_id="probe",
            node_id="probe",
            work_dir=work_dir,
            entry="run.sh",
            memory_bytes=1 << 30,
            cpus=1.0,
            gpu=False,
            image="",
            network=False,
            max_run_seconds=60,
            max_workdir_bytes=1 << 20,
            tmpfs_bytes=1 << 20,
            pids_limit=64,
        )
        return try_run(tools, spec, user) and (work_dir / "done").exists()


def _python(state_dir: Path, *, hidden_is_fine: bool) -> tuple[str, str]:
    """The interpreter that runs tasks, never the agent's virtual environment, and the prefix to bind for it.

    Raises RunRefusedError when there is none that another user could run.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = Path(sys.base_prefix).resolve()
    for prefix, executable in ((own, own / "bin" / name), *((Path("/usr"), Path(path)) for path in _PYTHONS)):
        if not _anyone_may_run(executable) or state_dir.resolve().is_relative_to(prefix):
            continue
        if hidden_is_fine or all(_anyone_may_pass(folder) for folder in executable.parents):
            below_system = any(prefix.is_relative_to(folder) for folder in _SYSTEM_FOLDERS)
            return str(executable), "" if below_system else str(prefix)
    raise RunRefusedError("there is no python3 on this machine that tasks may run")


def _anyone_may_run(file: Path) -> bool:
    try:
        return file.stat().st_mode & 0o005 == 0o005
    except OSError:
        return False


def _anyone_may_pass(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _system_paths() -> list[tuple[str, str]]:
    found = []
    for name in (*_SYSTEM_FOLDERS, *_SYSTEM_FILES):
        path = Path(name)
        # A merged /usr has links at the root; elsewhere what a link points to is shown in its place.
        if path.is_symlink() and path.parent == Path("/"):
            found.append((name, str(path.readlink())))
        elif path.exists():
            found.append((name, ""))
    return found


def _user_files(state_dir: Path, *, as_root: bool) -> tuple[Path, Path]:
    """Users by name, so that getpwuid() finds the task's; the machine's own stay unseen."""
    if as_root:
        ids = [(f"task{index}", FIRST_UID + index, FIRST_UID + index) for index in range(UID_COUNT)]
    else:
        ids = [("task", os.getuid(), os.getgid())]
    users = [("root", 0, 0), ("nobody", 65534, 65534), *ids]
    passwd, group = state_dir / "passwd", state_dir / "group"
    passwd.write_text("".join(f"{name}:x:{uid}:{gid}::/tmp:/bin/sh\n" for name, uid, gid in users))
    group.write_text("".join(f"{name}:x:{gid}:\n" for name, _, gid in users))
    for file in (passwd, group):
        file.chmod(0o644)
    return passwd, group
