"""Which system calls a run of the process runner may make, as a filter program for the kernel. Pure.

What is closed is what ordinary programs never need and what attacks on kernels begin with; Docker's
default profile was the yardstick. Calls that are younger than this list do not exist for a run. The
program is written here rather than by libseccomp, whose Python module no virtual environment can install.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_EPERM, _EAFNOSUPPORT, _ENOSYS = 1, 97, 38
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data; both machines are little-endian, so an argument's low half comes first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32_BIT = 0x4000_0000
_LAST_KNOWN = 452  # fchmodat2, which C libraries look for

# (x86-64, AArch64); 0: not there.
_REFUSED = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    # keyrings outlive a run, and are shared by all of a user
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # large surfaces
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "nfsservctl": (180, 42),
    "sysfs": (139, 0),
    "ustat": (136, 0),
    "uselib": (134, 0),
    "_sysctl": (156, 0),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, 0),
    "query_module": (178, 0),
    "get_kernel_syms": (177, 0),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "vhangup": (153, 58),
    "iopl": (172, 0),
    "ioperm": (173, 0),
    "modify_ldt": (154, 0),
    # where memory lies, and memory that nobody can count
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "set_mempolicy_home_node": (450, 450),
    "memfd_secret": (447, 447),
}
# Programs ask for these first and do without when they are told that the kernel has none.
_MISSING = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),  # its flags lie in memory, where a filter cannot look: clone is the fallback
}
_SYSV_IPC = {"shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190)}
_POSIX_QUEUES = {"mq_open": (240, 180)}
_AFFINITY = {"sched_setaffinity": (203, 122)}
_LOOKED_INTO = {
    "clone": (56, 220),
    "personality": (135, 92),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
_NEW_NAMESPACES = 0x7E02_0000
_PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
# Typing into a terminal, its selection buffer, its line discipline, and taking the console.
_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x5423, 0x541D)
_PR_SET_DUMPABLE, _PR_SET_PTRACER = 4, 0x5961_6D61
_UNIX, _INET, _INET6, _NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_SOCK_RAW, _SOCK_TYPE_MASK = 3, 0xF
_AND = 0x54
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What depends on what else keeps the run: a namespace, a control group."""

    ipc: bool  # System V IPC and message queues: with a namespace that ends with the run
    shared_memory: bool  # System V segments: where a control group counts them
    internet: bool  # sockets to elsewhere
    affinity: bool  # choosing its cores: where a quota bounds its time all the same


def program(machine: str, surface: Surface) -> bytes | None:
    """An array of `struct sock_filter`; None for a machine whose numbers are not known here."""
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    written = _Program(column)
    written.add(_LOAD, _ARCHITECTURE)
    written.add(_EQUAL, architecture, 1, 0)
    written.add(_RETURN, _KILL)
    written.add(_LOAD, _NUMBER)
    # Before what is young: the x32 interface has numbers of its own for the same calls.
    written.answer(_AT_LEAST, _X32_BIT, _ENOSYS)
    written.answer(_GREATER, _LAST_KNOWN, _ENOSYS)
    for numbers in _MISSING.values():
        written.refuse(numbers, _ENOSYS)
    for numbers in (*_REFUSED.values(), *_closed_by(surface)):
        written.refuse(numbers, _EPERM)
    written.look_into(_LOOKED_INTO["clone"], _clone())
    written.look_into(_LOOKED_INTO["personality"], _one_of(0, _PERSONALITIES, otherwise=_EPERM))
    written.look_into(_LOOKED_INTO["ioctl"], _none_of(1, _TERMINAL_REQUESTS))
    written.look_into(_LOOKED_INTO["prctl"], _prctl())
    for name in ("socket", "socketpair"):
        written.look_into(_LOOKED_INTO[name], _socket(internet=surface.internet))
    written.add(_RETURN, _ALLOW)
    return b"".join(written.instructions)


def _closed_by(surface: Surface) -> list[tuple[int, int]]:
    closed: list[tuple[int, int]] = []
    if not surface.ipc:
        closed += [*_SYSV_IPC.values(), *_POSIX_QUEUES.values()]
    elif not surface.shared_memory:
        closed.append(_SYSV_IPC["shmget"])
    if not surface.affinity:
        closed += _AFFINITY.values()
    return closed


class _Program:
    """Jumps reach 255 instructions, so each refusal follows its question."""

    def __init__(self, column: int) -> None:
        self._column = column
        self.instructions: list[bytes] = []

    def add(self, code: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.instructions.append(_instruction(code, value, if_true, if_false))

    def answer(self, question: int, value: int, errno: int) -> None:
        self.add(question, value, 0, 1)
        self.add(_RETURN, _ERRNO | errno)

    def refuse(self, numbers: tuple[int, int], errno: int) -> None:
        if number := numbers[self._column]:
            self.answer(_EQUAL, number, errno)

    def look_into(self, numbers: tuple[int, int], body: list[bytes]) -> None:
        """`body` returns in every case."""
        self.add(_EQUAL, numbers[self._column], 0, len(body))
        self.instructions += body


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _load_argument(index: int) -> bytes:
    return _instruction(_LOAD, _FIRST_ARGUMENT + 8 * index)


def _return(errno: int = 0) -> bytes:
    return _instruction(_RETURN, _ERRNO | errno if errno else _ALLOW)


def _clone() -> list[bytes]:
    return [_load_argument(0), _instruction(_ANY_BIT, _NEW_NAMESPACES, 0, 1), _return(_EPERM), _return()]


def _one_of(argument: int, allowed: tuple[int, ...], *, otherwise: int) -> list[bytes]:
    body = [_load_argument(argument)]
    for value in allowed:
        body += [_instruction(_EQUAL, value, 0, 1), _return()]
    return [*body, _return(otherwise)]


def _none_of(argument: int, refused: tuple[int, ...]) -> list[bytes]:
    body = [_load_argument(argument)]
    for value in refused:
        body += [_instruction(_EQUAL, value, 0, 1), _return(_EPERM)]
    return [*body, _return()]


def _prctl() -> list[bytes]:
    """A run stays one that can be looked into: its open files are counted."""
    return [
        _load_argument(0),
        _instruction(_EQUAL, _PR_SET_PTRACER, 0, 1),
        _return(_EPERM),
        _instruction(_EQUAL, _PR_SET_DUMPABLE, 1, 0),
        _return(),
        _load_argument(1),
        _instruction(_EQUAL, 1, 0, 1),
        _return(),
        _return(_EPERM),
    ]


def _socket(*, internet: bool) -> list[bytes]:
    """Local ones; the internet's where it is given, but never raw; of netlink what lists interfaces."""
    body = [_load_argument(0), _instruction(_EQUAL, _UNIX, 0, 1), _return()]
    if internet:
        raw = [
            _load_argument(1),
            _instruction(_AND, _SOCK_TYPE_MASK),
            _instruction(_EQUAL, _SOCK_RAW, 0, 1),
            _return(_EPERM),
            _return(),
        ]
        body += [_instruction(_EQUAL, _INET, 1, 0), _instruction(_EQUAL, _INET6, 0, len(raw)), *raw]
    body += [
        _instruction(_EQUAL, _NETLINK, 1, 0),
        _return(_EAFNOSUPPORT),
        _load_argument(2),
        _instruction(_EQUAL, _NETLINK_ROUTE, 0, 1),
        _return(),
        _return(_EAFNOSUPPORT),
    ]
    return body
