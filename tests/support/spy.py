"""A task that looks for its machine's secrets: in files, in other processes, by ptrace. Small and bounded.

It is told what to look for in a form that it does not find in itself, and reports where it saw that and
which processes it could look into.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import ROOT, not_here

# Of nobody: above the users that tasks get from an agent that is root.
ORDINARY_UID = 61_999
MARK = "SPIED "
PROGRAM = r"""
import base64, ctypes, json, os, sys, time

needles = [base64.b64decode(text[::-1]) for text in json.loads('NEEDLES')]
me, end = os.getpid(), time.monotonic() + 20
family = {me, os.getppid()}
seen, looked_into = [], {}
libc = ctypes.CDLL(None, use_errno=True)

def search(place, data):
    for number, needle in enumerate(needles):
        if needle in data:
            seen.append([number, place])

def read(place, limit=1 << 20):
    try:
        with open(place, 'rb', 0) as file:
            data = file.read(limit)
        search(place, data)
        return bool(data)
    except (OSError, ValueError):
        return False

def memory(pid):
    try:
        lines = open(f'/proc/{pid}/maps').read().splitlines()
        with open(f'/proc/{pid}/mem', 'rb', 0) as file:
            for line in lines[:400]:
                where, mode = line.split()[:2]
                if 'rw' not in mode:
                    continue
                first, last = (int(part, 16) for part in where.split('-'))
                file.seek(first)
                search(f'/proc/{pid}/mem', file.read(min(last - first, 4 << 20)))
        return True
    except (OSError, ValueError):
        return False

for name in os.listdir('/proc'):
    if not name.isdigit() or int(name) in family:
        continue
    pid = int(name)
    ways = [what for what in ('environ', 'maps', 'auxv') if read(f'/proc/{pid}/{what}')]
    ways += ['mem'] if memory(pid) else []
    try:
        for fd in os.listdir(f'/proc/{pid}/fd'):
            ways.append('fd')
            link = os.readlink(f'/proc/{pid}/fd/{fd}')
            if link.startswith('/') and os.path.isfile(link):
                read(f'/proc/{pid}/fd/{fd}')
    except OSError:
        pass
    if libc.ptrace(0x4206, pid, 0, 0) == 0:
        ways.append('ptrace')
        libc.ptrace(17, pid, 0, 0)
    if ways:
        looked_into[name] = sorted(set(ways))

files = 0
for root in json.loads('ROOTS'):
    for folder, folders, names in os.walk(root):
        if time.monotonic() > end or files > 20000:
            break
        if os.path.abspath(folder) == os.getcwd():
            continue
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                files += 1
                read(path)
print('MARK' + json.dumps({'seen': seen, 'looked_into': looked_into, 'files': files}))
"""


@dataclass(frozen=True)
class Spied:
    seen: list[str]  # "needle at place"
    looked_into: dict[int, list[str]]  # process -> the ways

    def of(self, pids: Iterable[int]) -> dict[int, list[str]]:
        return {pid: self.looked_into[pid] for pid in pids if pid in self.looked_into}


def spy(needles: Sequence[str], roots: Sequence[Path | str]) -> str:
    """The program's source."""
    told = [base64.b64encode(needle.encode()).decode()[::-1] for needle in needles]
    return (
        PROGRAM.replace("NEEDLES", json.dumps(told))
        .replace("ROOTS", json.dumps([str(root) for root in roots]))
        .replace("MARK", MARK)
    )


def spied(output: str) -> Spied:
    line = next(line for line in output.splitlines() if line.startswith(MARK))
    told = json.loads(line.removeprefix(MARK))
    seen = [f"secret {number} in {place}" for number, place in told["seen"]]
    return Spied(seen, {int(pid): ways for pid, ways in told["looked_into"].items()})


def spy_as(uid: int, needles: Sequence[str], roots: Sequence[Path | str], folder: Path) -> Spied:
    """Run here as a process of that user, without any sandbox."""
    command = [*as_user(uid, folder), "env", sys.executable, "-c", spy(needles, roots)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, timeout=60)
    return spied(done.stdout)


def needs_ordinary_user(folder: Path) -> None:
    """These tests become another user, who has to get at this Python."""
    if os.geteuid() != 0:
        not_here("root, to become another user")
    command = [*as_user(ORDINARY_UID, folder), sys.executable, "-c", "import grpc"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        not_here(f"a Python that an ordinary user can run ({done.stderr.strip()[-200:]})")


def as_user(uid: int, folder: Path) -> tuple[str, ...]:
    """What runs the rest of the line as this user, who is shown Python also in root's own home."""
    dropped = ("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups")
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    hidden = next((it for path in needed for it in _hiding(path)), None)
    if hidden is None:
        return dropped
    shown = [str(path) for path in needed if path.is_relative_to(hidden)]
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", _SHOWN, "sh",
            str(hidden), str(folder / "shown"), " ".join(shown), *dropped)  # fmt: skip


# In a mount namespace of its own: $1 becomes an empty folder that has only $3 in it. What follows is run.
_SHOWN = """
hidden=$1 kept=$2 paths=$3; shift 3
for path in $paths; do mkdir -p "$kept$path"; mount --bind "$path" "$kept$path"; done
mount -t tmpfs -o mode=755 none "$hidden"
for path in $paths; do mkdir -p "$path"; mount --bind "$kept$path" "$path"; done
exec "$@"
"""


def _hiding(path: Path) -> list[Path]:
    """The folders above it that others cannot go through, the outermost first."""
    return [it for it in reversed(path.resolve().parents) if not it.stat().st_mode & 0o001]


def as_ordinary_user(*, bubblewrap: bool, folder: Path) -> tuple[str, ...]:
    """The same for an ordinary user, who finds bubblewrap or does not."""
    path = os.environ["PATH"] if bubblewrap else without_bubblewrap(folder)
    return (*as_user(ORDINARY_UID, folder), "env", f"PATH={path}")


def without_bubblewrap(folder: Path) -> str:
    """A PATH with every program of this machine but bubblewrap and Docker."""
    place = folder / "programs"
    if not place.exists():
        place.mkdir()
        for name in os.environ["PATH"].split(os.pathsep):
            for program in Path(name).glob("*") if Path(name).is_dir() else ():
                link = place / program.name
                if program.name not in ("bwrap", "docker") and not link.is_symlink():
                    link.symlink_to(program)
    return str(place)
