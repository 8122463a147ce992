"""Begins every task of the process runner: limits, control groups, namespaces, the user, the filter.

A process of its own with one thread, that forks for each run, so that no run waits for an interpreter. It
imports nothing of ours and little of the standard library, and has nothing of the agent's environment.
A plan comes as one message with two descriptors, for the output and for the status; the answer is the
process's id. It is a line of JSON, and after it the words of the command and of the environment as they are,
with a NUL between them: in JSON they could be six times as long. Its parent is the agent, which adopts
orphans. `worker_agent.runners.plan` decides what is in a plan. With namespaces the new process tells of
itself what bubblewrap would, in the same words.
"""
# ruff: noqa: PTH102, PTH103, PTH112, PTH120, PTH123, PTH211

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

STATUS_FD, FILTER_FD = 3, 4
MAX_PLAN_BYTES = 1 << 17
_DESCRIPTORS = 1024  # more than this process ever has
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_NEW_MOUNTS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC, _NEW_PIDS, _NEW_NET = (
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x2000_0000,
    0x4000_0000,
)
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT = 0x0000_8000
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY_NOSUID_NODEV = 1 | 2 | 4
_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 23, 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_RESTRICT = 444, 446
_SCOPE_OF_ABSTRACT_SOCKETS = 1
_LAST_CAPABILITY = 63
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# No run writes there, and nothing of the machine is below it: the new root is put together here.
_BASE = "/proc"
_SIGNAL_BASE = 128
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    serve(int(sys.argv[1]), _run)


def serve(descriptor: int, run: Callable[[bytes, int, int], None]) -> None:
    """Forks for each request that comes, until there are no more; `run` ends the new process."""
    channel = socket.socket(fileno=descriptor)
    while True:
        plan, descriptors, _, _ = socket.recv_fds(channel, MAX_PLAN_BYTES, 2)
        if not plan:
            return  # the agent has ended, or wants to run nothing any more
        try:
            answer = str(_fork_for(channel, run, plan, *descriptors))
        except OSError as error:
            answer = f"cannot fork: {error.strerror}"
        for received in descriptors:
            os.close(received)
        channel.send(answer.encode())


def _fork_for(
    channel: socket.socket, run: Callable[[bytes, int, int], None], plan: bytes, output: int, status: int
) -> int:
    """The new process is the agent's child, not this one's: the agent waits for it.

    fork() cannot do that. With one thread, and nothing of the library held, the call itself will do.
    """
    call = ctypes.c_long(_SYS_CLONE[os.uname().machine])
    nothing = ctypes.c_long(0)
    flags = ctypes.c_long(_CLONE_PARENT | signal.SIGCHLD)
    child = _libc.syscall(call, flags, nothing, nothing, nothing, nothing)
    if child < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if not child:
        channel.close()
        run(plan, output, status)
        os._exit(1)
    return int(child)


def _run(plan: bytes, output: int, status: int) -> None:
    """Never returns."""
    try:
        os.setsid()
        # First out of the way of the numbers that they are to have.
        moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FILTER_FD + 1) for descriptor in (output, status)]
        nothing = os.open("/dev/null", os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (moved[0], 1), (moved[0], 2), (moved[1], STATUS_FD)):
            os.dup2(descriptor, number)
        os.closerange(FILTER_FD, _DESCRIPTORS)
        begin(unpacked(plan))
    except BaseException as error:  # noqa: BLE001
        os.write(1, f"{error}\n".encode())
    os._exit(1)


def packed(plan: dict[str, Any]) -> bytes:
    """A plan as a message."""
    words = [*plan["command"], *(f"{name}={value}" for name, value in plan["environment"].items())]
    head = {**plan, "command": len(plan["command"]), "environment": len(plan["environment"])}
    return json.dumps(head).encode() + b"\n" + "\0".join(words).encode("utf-8", "surrogateescape")


def unpacked(message: bytes) -> dict[str, Any]:
    head, _, text = message.partition(b"\n")
    plan: dict[str, Any] = json.loads(head)
    count, words = plan["command"], text.split(b"\0")
    plan["command"] = words[:count]
    plan["environment"] = dict(word.split(b"=", 1) for word in words[count:])
    return plan


def begin(plan: dict[str, Any]) -> None:
    os.umask(0o022)
    for path in plan["cgroups"]:
        _write(path, "0")
    if plan["cores"]:
        os.sched_setaffinity(0, plan["cores"])
    if plan["oom_score"]:
        _write("/proc/self/oom_score_adj", str(plan["oom_score"]))
    if plan["sandbox"] == "namespaces":
        _enter_namespaces(plan)
    if plan["sandbox"] == "none":
        _stay_above()
    for name, value in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    _become(plan)


def _stay_above() -> None:
    """Returns in the process that becomes the task. The other one keeps its orphans, and ends them."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "keep orphans")
    task = os.fork()
    if not task:
        return
    os.closerange(0, STATUS_FD + 1)
    while True:
        ended, status = os.wait()
        if ended == task:
            break
    while below := _children():
        for pid in below:
            os.kill(pid, signal.SIGKILL)
        for pid in below:
            os.waitpid(pid, 0)
    os._exit(_code_of(status))


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def _become(plan: dict[str, Any]) -> None:
    """The last steps, in the process that becomes the task (or bubblewrap, which does them itself)."""
    if plan["sandbox"] == "bubblewrap":
        if plan["scoped"]:
            _scope()
        if plan["filter"]:
            os.set_inheritable(_filter_file(bytes.fromhex(plan["filter"])), True)
        os.set_inheritable(STATUS_FD, True)
    else:
        os.chdir(plan["folder"])
        if plan["sandbox"] == "none":
            os.write(STATUS_FD, b'{"began": true}\n')
        os.set_inheritable(STATUS_FD, False)
        _drop(plan["user"])
        if plan["scoped"]:
            _scope()
        if plan["filter"]:
            _install(bytes.fromhex(plan["filter"]))
    os.execve(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606


def _filter_file(filter_program: bytes) -> int:
    file = os.memfd_create("filter", 0)
    os.write(file, filter_program)
    os.lseek(file, 0, os.SEEK_SET)
    _put(file, FILTER_FD)
    return FILTER_FD


def _drop(user: int | None) -> None:
    if user is not None:
        for capability in range(_LAST_CAPABILITY + 1):
            if _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
                _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "drop a capability")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")


def _scope() -> None:
    """Local sockets without a file belong to the network, which may be the machine's: only the run's own are
    left. Nothing happens before Linux 6.12."""
    attributes = (ctypes.c_uint64 * 3)(0, 0, _SCOPE_OF_ABSTRACT_SOCKETS)
    size, nothing = ctypes.c_long(ctypes.sizeof(attributes)), ctypes.c_long(0)
    rules = _libc.syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE), ctypes.byref(attributes), size, nothing, nothing, nothing
    )
    if rules < 0:
        return
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    restrict = ctypes.c_long(_SYS_LANDLOCK_RESTRICT)
    _check(_libc.syscall(restrict, ctypes.c_long(rules), nothing), "keep to its own sockets")
    os.close(rules)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _install(filter_program: bytes) -> None:
    instructions = ctypes.create_string_buffer(filter_program, len(filter_program))
    told = _FilterProgram(len(filter_program) // 8, ctypes.addressof(instructions))
    installed = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(told), 0, 0)
    _check(installed, "install the filter of system calls")


def _enter_namespaces(plan: dict[str, Any]) -> None:
    """Returns in the process that becomes the task; two others wait for it, one on each side."""
    flags = _NEW_MOUNTS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_PIDS
    _check(_libc.unshare(flags | (0 if plan["network"] else _NEW_NET)), "make namespaces")
    if first := os.fork():
        os.write(STATUS_FD, b'{"child-pid": %d}\n' % first)
        os.closerange(0, STATUS_FD)
        code = _code_of(os.waitpid(first, 0)[1])
        os.write(STATUS_FD, b'{"exit-code": %d}\n' % code)
        os._exit(code)
    # The first of a namespace: all others end with it, and it with whoever waits for it.
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "be ended with its parent")
    _build_root(plan)
    socket.sethostname("task")
    if task := os.fork():
        os.closerange(0, STATUS_FD + 1)
        _wait_for_all(task)
    os.setsid()


def _wait_for_all(task: int) -> None:
    """The orphans of a namespace are its first process's. What is left when the task ends goes with it."""
    while True:
        ended, status = os.wait()
        if ended == task:
            os._exit(_code_of(status))


def _code_of(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNAL_BASE - code


def _build_root(plan: dict[str, Any]) -> None:
    """Of the machine's files only what the plan names; nothing of it can be written."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _BASE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    os.umask(0)
    for folder in (*plan["folders"], "/proc", "/dev", "/tmp"):  # noqa: S108
        os.makedirs(_BASE + folder, 0o755, exist_ok=True)
    for target, path in plan["links"]:
        os.makedirs(os.path.dirname(_BASE + path), 0o755, exist_ok=True)
        os.symlink(target, _BASE + path)
    for source, path in plan["shown"]:
        _show(source, path, read_only=True)
    for source, path in plan["own"]:
        _show(source, path, read_only=False)
    for source, path in plan["inputs"]:
        _show(source, path, read_only=True)
    _build_devices(plan["tmpfs_bytes"])
    _memory("/tmp", plan["tmpfs_bytes"])  # noqa: S108
    _mount("proc", _BASE + "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.umask(0o022)
    os.chdir(_BASE)
    change = ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine])
    _check(_libc.syscall(change, b".", b"."), "change the root")
    _check(_libc.umount2(b".", _MNT_DETACH), "leave the old root")
    os.chdir("/")
    # What everything lies on is a tmpfs; the bound on its size is not one on its entries.
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _build_devices(size: int) -> None:
    dev = _BASE + "/dev"
    _mount("tmpfs", dev, "tmpfs", _MS_NOSUID, "mode=0755,size=64k")
    for name in _DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _mount(f"/dev/{name}", f"{dev}/{name}", None, _MS_BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{dev}/{name}")
    os.mkdir(f"{dev}/pts", 0o755)
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    _mount("devpts", f"{dev}/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.mkdir(f"{dev}/shm", 0o755)
    _memory("/dev/shm", size)  # noqa: S108
    _mount("none", dev, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)


def _memory(path: str, size: int) -> None:
    _mount("tmpfs", _BASE + path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=1777,size={size}")


def _show(source: str, path: str, *, read_only: bool) -> None:
    target = _BASE + path
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    if not read_only:
        _mount(source, target, None, _MS_BIND)
        _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV)
        return
    _mount(source, target, None, _MS_BIND | _MS_REC)
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY_NOSUID_NODEV, 0, 0, 0)
    arguments = (
        ctypes.c_long(_AT_FDCWD),
        target.encode(),
        ctypes.c_long(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_long(ctypes.sizeof(attributes)),
    )
    if _libc.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *arguments) != 0:
        # Older than Linux 5.12: only the mount itself, not those below it.
        _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(done, f"mount {target.removeprefix(_BASE)}")


def _put(descriptor: int, number: int) -> None:
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
