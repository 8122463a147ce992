"""What a hostile task tries against the machine that it runs on. Runs inside the sandbox, whatever keeps it.

Standard library only, and no import of ours: the test puts this file and `targets.json` into a package.
Every attack prints its name with `open` when it got what it wanted, else `closed`. Bombs are small, bounded,
and end by themselves; each runs in a package of its own (`targets.json` names it).
"""
# ruff: noqa: PTH101, PTH102, PTH108, PTH123, PTH207, PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {
        "keyctl": 250, "add_key": 248, "bpf": 321, "io_uring_setup": 425, "userfaultfd": 323,
        "perf_event_open": 298, "process_vm_readv": 310, "kexec_load": 246, "init_module": 175,
        "open_by_handle_at": 304, "pidfd_getfd": 438, "memfd_secret": 447, "mount": 165, "unshare": 272,
        "clone": 56, "setns": 308, "syslog": 103, "personality": 135, "quotactl": 179, "ptrace": 101,
        "fsopen": 430, "clone3": 435, "mq_open": 240, "statmount": 457, "pidfd_open": 434,
    },
    "aarch64": {
        "keyctl": 219, "add_key": 217, "bpf": 280, "io_uring_setup": 425, "userfaultfd": 282,
        "perf_event_open": 241, "process_vm_readv": 270, "kexec_load": 104, "init_module": 105,
        "open_by_handle_at": 265, "pidfd_getfd": 438, "memfd_secret": 447, "mount": 40, "unshare": 97,
        "clone": 220, "setns": 268, "syslog": 116, "personality": 92, "quotactl": 60, "ptrace": 117,
        "fsopen": 430, "clone3": 435, "mq_open": 180, "statmount": 457, "pidfd_open": 434,
    },
}[platform.machine()]  # fmt: skip
ATTACKS: dict[str, Callable[[], bool]] = {}
BOMBS: dict[str, Callable[[], None]] = {}
TARGETS: dict[str, object] = {}


def attack(attack_on: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    def keep(function: Callable[[], bool]) -> Callable[[], bool]:
        ATTACKS[attack_on] = function
        return function

    return keep


def bomb(attack_on: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def keep(function: Callable[[], None]) -> Callable[[], None]:
        BOMBS[attack_on] = function
        return function

    return keep


def syscall(name: str, *arguments: object) -> int:
    """-1 with errno set, like the library's own."""
    ctypes.set_errno(0)
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(LIBC.syscall(ctypes.c_long(NUMBERS[name]), *passed))


def exists(name: str, *arguments: object) -> bool:
    """Whether the kernel looks at the arguments at all: an attack on it begins there."""
    return syscall(name, *arguments) >= 0 or ctypes.get_errno() not in {errno.ENOSYS, errno.EPERM}


# -- the agent, other runs, other processes ----------------------------------------------------------
@attack("read the agent's environment")
def agents_environment() -> bool:
    return _readable(f"/proc/{TARGETS['agent_pid']}/environ", b"AGENT_SECRET")


@attack("look into the agent's memory")
def agents_memory() -> bool:
    # Opening its mem is up to yama, which differs between machines; where its memory lies is a good part.
    with open(f"/proc/{TARGETS['agent_pid']}/maps", "rb") as maps:
        return _is_agent(TARGETS["agent_pid"]) and bool(maps.read(16))


@attack("read the agent's secrets")
def agents_secrets() -> bool:
    return _readable(str(TARGETS["secret_file"]), b"SECRET")


@attack("read files of the agent that anybody may read")
def agents_open_files() -> bool:
    return _readable(str(TARGETS["open_file"]), b"SECRET")


@attack("read another run's files")
def other_runs_files() -> bool:
    return _readable(str(TARGETS["other_file"]), b"print")


@attack("see other processes")
def other_processes() -> bool:
    return any(_is_agent(pid) for pid in (TARGETS["agent_pid"], TARGETS["other_pid"]))


@attack("send the agent a signal")
def signal_agent() -> bool:
    if not _is_agent(TARGETS["agent_pid"]):
        return False
    os.kill(int(str(TARGETS["agent_pid"])), 0)
    return True


@attack("trace a process")
def trace() -> bool:
    child = subprocess.Popen(["sleep", "30"])
    try:
        return syscall("ptrace", 16, child.pid, 0, 0) == 0
    finally:
        child.kill()
        child.wait()


@attack("read another process's memory")
def process_memory() -> bool:
    buffer = ctypes.create_string_buffer(8)
    source = ctypes.create_string_buffer(b"private")
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    other = (ctypes.c_void_p * 2)(ctypes.addressof(source), 8)
    return syscall("process_vm_readv", os.getpid(), vector, 1, other, 1, 0) > 0


@attack("find descriptors of the agent")
def inherited() -> bool:
    return any(int(name) > 2 and _is_foreign(int(name)) for name in os.listdir("/proc/self/fd"))


@attack("reach services on the machine's loopback")
def loopback() -> bool:
    with socket.create_connection(("127.0.0.1", int(str(TARGETS["port"]))), 5):
        return True


@attack("reach abstract sockets of the machine")
def abstract_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + str(TARGETS["abstract"]))
        return True


# -- the kernel --------------------------------------------------------------------------------------
@attack("keyrings")
def keyrings() -> bool:
    return syscall("add_key", b"user", b"hm-attack", b"x", 1, -2) >= 0


@attack("bpf")
def bpf() -> bool:
    return exists("bpf", 0, ctypes.create_string_buffer(128), 128)


@attack("io_uring")
def io_uring() -> bool:
    return exists("io_uring_setup", 1, ctypes.create_string_buffer(256))


@attack("userfaultfd")
def userfaultfd() -> bool:
    return exists("userfaultfd", 1)


@attack("perf events")
def perf() -> bool:
    attributes = ctypes.create_string_buffer(128)
    attributes[4] = 128
    return exists("perf_event_open", attributes, 0, -1, -1, 0)


@attack("a user namespace of its own")
def user_namespace() -> bool:
    return _in_child(lambda: LIBC.unshare(0x10000000) == 0) or _in_child(
        lambda: syscall("clone", 0x10000000 | int(signal.SIGCHLD), 0, 0, 0, 0) >= 0
    )


@attack("mount")
def mount() -> bool:
    return _in_child(lambda: LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0) or exists(
        "fsopen", b"tmpfs", 0
    )


@attack("calls that the kernel got lately")
def young_calls() -> bool:
    return exists("statmount", 0, 0, 0, 0)


@attack("memory that nobody can look into")
def secret_memory() -> bool:
    return exists("memfd_secret", 0)


@attack("files by handle, past every folder")
def by_handle() -> bool:
    return exists("open_by_handle_at", -1, ctypes.create_string_buffer(64), 0)


@attack("raw and unusual sockets")
def sockets() -> bool:
    for family, kind in ((17, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW), (40, 1), (38, 5)):
        with contextlib.suppress(OSError):
            socket.socket(family, kind).close()
            return True
    return False


@attack("type into a terminal")
def terminal() -> bool:
    master, slave = os.openpty()
    with contextlib.suppress(OSError):
        fcntl.ioctl(slave, termios.TIOCSTI, b"x")
        return True
    # Refused for being no terminal of its own is open all the same to one who has one.
    with contextlib.suppress(OSError):
        fcntl.ioctl(master, 0x541C, b"\x00")
        return True
    return False


@attack("load a module or a kernel")
def kernel_code() -> bool:
    return syscall("init_module", b"", 0, b"") == 0 or syscall("kexec_load", 0, 0, 0, 0) == 0


@attack("write kernel settings")
def kernel_settings() -> bool:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return True
    return False


@attack("raise its own control group's limits")
def control_groups() -> bool:
    for pattern in ("/sys/fs/cgroup/**/cgroup.procs", "/sys/fs/cgroup/**/memory.max"):
        for path in glob.iglob(pattern, recursive=True):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                return True
    return False


@attack("become root by a setuid program")
def setuid_program() -> bool:
    with open("/proc/self/status") as status:
        return "NoNewPrivs:\t1" not in status.read()


@attack("dump core")
def core_dump() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE) != (0, 0)


@attack("hide its open files from who counts")
def undumpable() -> bool:
    return bool(_in_child(lambda: LIBC.prctl(4, 0, 0, 0, 0) == 0))


# -- what others see, and what stays -----------------------------------------------------------------
@attack("leave files in /tmp, /var/tmp or /dev/shm for others")
def shared_folders() -> bool:
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        with contextlib.suppress(OSError), open(f"{folder}/{TARGETS['mark']}", "w") as file:
            file.write("x")
    return False  # the test looks whether they are there outside


@attack("leave System V shared memory")
def system_v() -> bool:
    with contextlib.suppress(AttributeError):
        LIBC.shmget(int(str(TARGETS["key"])), 4096, 0o1666)
    return False  # the test looks


@attack("leave a POSIX message queue")
def message_queue() -> bool:
    syscall("mq_open", str(TARGETS["mark"]).encode(), 0o102, 0o666, 0)
    return False  # the test looks


@attack("leave a process behind")
def stay() -> bool:
    # One in a session of its own, and one that is nobody's child and has no environment to be known by.
    code = f"import os, time\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(120)  # {TARGETS['mark']}"
    for environment in (None, {}):
        subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL, env=environment
        ).wait()
    return False  # the test looks


# -- bombs: each is to be ended, or refused, before it has taken what it wants ----------------------------
@bomb("memory: malloc")
def malloc() -> None:
    held = []
    for _ in range(int(str(TARGETS["memory_mib"])) * 2):
        held.append(mmap.mmap(-1, MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        held[-1].write(b"x" * MIB)
    _took_it()


@bomb("memory: many processes")
def many() -> None:
    count = 4
    for _ in range(count):
        if os.fork() == 0:
            held = bytearray(b"x") * (int(str(TARGETS["memory_mib"])) * MIB // 2)
            print("child has", len(held), flush=True)
            _wait_to_be_ended()
            os._exit(0)
    for _ in range(count):
        if os.wait()[1] != 0:
            sys.exit("a child was ended")
    _took_it()


@bomb("memory: processes that cannot be looked into")
def closed_processes() -> None:
    shutil.copy(os.path.realpath(sys.executable), "closed-python")
    os.chmod("closed-python", 0o111)  # who may start it but not read it starts what cannot be read
    size = int(str(TARGETS["memory_mib"])) * MIB // 2
    code = f"held = bytearray(b'x') * {size}\nprint('holds', flush=True)\nimport time; time.sleep(120)"
    started = [
        subprocess.Popen(["./closed-python", "-I", "-S", "-c", code], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != b"holds\n":
            sys.exit("refused")
    _wait_to_be_ended()


@bomb("memory: memfd")
def memfd() -> None:
    held = []
    for _ in range(int(str(TARGETS["memory_mib"])) * 2 // 4):
        held.append(os.memfd_create("bomb"))
        os.write(held[-1], b"x" * (4 * MIB))
    _wait_to_be_ended()


@bomb("memory: memfd in flight")
def memfd_in_flight() -> None:
    pairs = []
    for _ in range(int(str(TARGETS["memory_mib"])) * 2 // 4):
        file = os.memfd_create("bomb")
        os.write(file, b"x" * (4 * MIB))
        pair = socket.socketpair()
        socket.send_fds(pair[0], [b"x"], [file])
        os.close(file)
        pairs.append(pair)
    _wait_to_be_ended()


@bomb("memory: System V segments")
def segments() -> None:
    LIBC.shmat.restype = ctypes.c_void_p
    LIBC.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    for _ in range(int(str(TARGETS["memory_mib"])) * 2):
        number = LIBC.shmget(0, MIB, 0o1600)
        if number < 0:
            sys.exit("refused")
        address = LIBC.shmat(number, None, 0)
        ctypes.memset(address, 1, MIB)
        LIBC.shmdt(ctypes.c_void_p(address))
    _wait_to_be_ended()


@bomb("memory: files in /tmp and /dev/shm")
def memory_files() -> None:
    held = []
    for folder in ("/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            for number in range(int(str(TARGETS["memory_mib"])) // 4):
                path = f"{folder}/{TARGETS['mark']}-bomb-{number}"
                held.append(os.open(path, os.O_CREAT | os.O_RDWR))
                os.unlink(path)
                os.write(held[-1], b"x" * (4 * MIB))
    _wait_to_be_ended()


@bomb("memory: buffers of sockets")
def socket_buffers() -> None:
    held, sent = [], 0
    while sent < int(str(TARGETS["memory_mib"])) * 2 * MIB:
        pair = socket.socketpair()
        pair[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += pair[0].send(b"x" * 65536)
        held.append(pair)
    _wait_to_be_ended()


@bomb("memory: buffers of sockets whose sender has gone")
def received_buffers() -> None:
    held, sent = [], 0
    while sent < int(str(TARGETS["memory_mib"])) * 2 * MIB:
        sender, receiver = socket.socketpair()
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sender.send(b"x" * 65536)
        sender.close()
        held.append(receiver)
    _wait_to_be_ended()


@bomb("memory: empty files in /tmp")
def empty_files() -> None:
    if os.environ.get("TMPDIR", "/tmp") != "/tmp":
        sys.exit("its own folder for such files is on the disk")
    for number in range(int(str(TARGETS["memory_mib"])) * 2 * 1024):
        os.close(os.open(f"/tmp/{TARGETS['mark']}-{number}", os.O_CREAT | os.O_WRONLY))
    _wait_to_be_ended()


@bomb("memory: page tables")
def page_tables() -> None:
    """Reading what was never written takes no page, but a table for each two MiB."""
    for _ in range(int(str(TARGETS["memory_mib"])) * 2 // 6):
        if os.fork() == 0:
            area = mmap.mmap(-1, 3 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
            area.madvise(15)  # no huge pages
            for place in range(0, len(area), 2 * MIB):
                area[place]
            _wait_to_be_ended()
    _end_with_the_first_child()


@bomb("memory: mappings")
def mappings() -> None:
    """Each costs the kernel some two hundred bytes."""
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    for _ in range(int(str(TARGETS["memory_mib"])) * 2 // 8):
        if os.fork() == 0:
            start = LIBC.mmap(None, 64_000 * 4096, 1, 0x22, -1, 0)
            for place in range(0, 64_000 * 4096, 8192):
                LIBC.mprotect(ctypes.c_void_p(start + place), 4096, 0)
            _wait_to_be_ended()
    _end_with_the_first_child()


@bomb("disk: one file")
def one_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("big", "wb", 0) as file:
        _fill(file.fileno(), "disk_mib")


@bomb("disk: many files")
def many_files() -> None:
    for number in range(int(str(TARGETS["disk_mib"])) * 2):
        with open(f"part-{number}", "wb") as file:
            file.write(b"x" * MIB)
    _wait_to_be_ended()


@bomb("disk: unlinked open files")
def unlinked() -> None:
    held = []
    for number in range(int(str(TARGETS["disk_mib"])) * 2 // 4):
        held.append(os.open(f"gone-{number}", os.O_CREAT | os.O_RDWR))
        os.unlink(f"gone-{number}")
        os.write(held[-1], b"x" * (4 * MIB))
    _wait_to_be_ended()


@bomb("disk: unlinked files that are only mapped")
def mapped() -> None:
    held = []
    for number in range(int(str(TARGETS["disk_mib"])) * 2 // 4):
        file = os.open(f"gone-{number}", os.O_CREAT | os.O_RDWR)
        os.unlink(f"gone-{number}")
        os.write(file, b"x" * (4 * MIB))
        # Only a page of it: the rest is as much on the disk.
        held.append(mmap.mmap(file, 4096))
        os.close(file)
    _wait_to_be_ended()


@bomb("disk: files in a closed folder")
def closed_folder() -> None:
    os.mkdir("closed")
    folder = os.open("closed", os.O_RDONLY)
    os.chmod("closed", 0o300)
    for number in range(int(str(TARGETS["hidden_mib"])) // int(str(TARGETS["disk_mib"]))):
        file = os.open(f"part-{number}", os.O_CREAT | os.O_RDWR, dir_fd=folder)
        os.posix_fallocate(file, 0, int(str(TARGETS["disk_mib"])) * MIB)
        os.close(file)
    _wait_to_be_ended()


@bomb("disk: unlinked files in flight")
def in_flight() -> None:
    pairs = []
    for number in range(int(str(TARGETS["hidden_mib"])) // int(str(TARGETS["disk_mib"]))):
        file = os.open(f"gone-{number}", os.O_CREAT | os.O_RDWR)
        os.unlink(f"gone-{number}")
        os.posix_fallocate(file, 0, int(str(TARGETS["disk_mib"])) * MIB)
        pair = socket.socketpair()
        socket.send_fds(pair[0], [b"x"], [file])
        os.close(file)
        pairs.append(pair)
    _wait_to_be_ended()


@bomb("disk: holes")
def holes() -> None:
    for number in range(8):
        with open(f"hole-{number}", "wb") as file:
            file.truncate(int(str(TARGETS["disk_mib"])) * MIB // 2)
    _wait_to_be_ended()


@bomb("processes")
def fork_bomb() -> None:
    children = 0
    with contextlib.suppress(OSError):
        for _ in range(int(str(TARGETS["processes"])) * 3):
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            children += 1
    if children <= int(str(TARGETS["processes"])):
        sys.exit("refused")
    _wait_to_be_ended()


def _fill(file: int, limit: str) -> None:
    for _ in range(int(str(TARGETS[limit])) * 2):
        try:
            os.write(file, b"x" * MIB)
        except OSError as error:
            sys.exit(f"refused: {error}")
    _wait_to_be_ended()


def _wait_to_be_ended() -> None:
    """A watcher needs a few looks; who is not ended within them has what it wanted."""
    threading.Event().wait(float(str(TARGETS["patience_seconds"])))
    _took_it()


def _end_with_the_first_child() -> None:
    """The kernel may end one child only, with what the others hold still in bounds."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.wait()[1] != 0:
                sys.exit("a child was ended")
    _took_it()


def _took_it() -> None:
    print("took it", flush=True)
    os._exit(0)


def _readable(path: str, what: bytes) -> bool:
    with open(path, "rb") as file:
        return what in file.read(1 << 20)


def _is_agent(pid: object) -> bool:
    """Whether this is the process that the test meant, and not another of that number in here."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return str(TARGETS["command_mark"]).encode() in file.read()


def _is_foreign(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        kind = os.fstat(descriptor)
        # The folder that is being listed, and the pair that a pty test may leave, are its own.
        return not stat.S_ISDIR(kind.st_mode) and not stat.S_ISCHR(kind.st_mode)
    return False


def _in_child(try_it: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        done = 1
        with contextlib.suppress(BaseException):
            done = 0 if try_it() else 1
        os._exit(done)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    with open("targets.json") as file:
        TARGETS.update(json.load(file))
    if name := TARGETS.get("bomb"):
        BOMBS[str(name)]()
        return
    for attack_name, function in ATTACKS.items():
        try:
            done = function()
        except (OSError, AttributeError, subprocess.SubprocessError):
            done = False
        print(json.dumps([attack_name, "open" if done else "closed"]), flush=True)


if __name__ == "__main__":
    main()
