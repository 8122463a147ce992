"""The result ZIP: the working directory after the run, with the run's log and output.

What a task leaves behind is hostile: nothing is followed, nothing but plain files and folders is
read, and all of it is bounded. What is left out is named in execution_log.txt.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from nodepool.domain.tasks.pool_result import MAX_RESULT_DEPTH, MAX_RESULT_ENTRIES
from nodepool.domain.tasks.zip_listing import MAX_PATH_BYTES

EXECUTION_LOG = "execution_log.txt"
TASK_LOGS = "task_logs.txt"
TASK_STOPPED = "task_stopped.txt"
_RESERVED = frozenset({EXECUTION_LOG, TASK_LOGS, TASK_STOPPED})
_COPY_BYTES = 1 << 18
# Results are packed while the machine has other tasks to run: speed before size.
_ZIP_LEVEL = 1
_NAMED_LEFT_OUT = 200
# execution_log.txt, task_stopped.txt and the ZIP's own end.
_OVERHEAD_BYTES = 48 << 10
# Local header, central entry and extra fields of one member, without its name.
_MEMBER_BYTES = 200
DEFAULT_MAX_READ_BYTES = 2 << 30
# A run can leave more files than get in; beyond so many nobody looks. And all their paths are in memory.
_MAX_LOOKED_AT = 2 * MAX_RESULT_ENTRIES
_MAX_NAMES_BYTES = 8 << 20
# Every file is opened from the root, folder by folder: the deeper they lie, the fewer get in.
_MAX_FOLDERS_OPENED = 1_000_000
_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What execution_log.txt says. Times are Unix seconds."""

    task_id: str
    attempt_id: str
    node_id: str
    status: str  # the protocol's word: COMPLETED, FAILED or STOPPED
    exit_code: int
    reason: str
    stopped: bool
    started_at: float
    finished_at: float
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    dropped_output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BuiltResult:
    size_bytes: int
    sha256: str
    left_out: int  # files that did not get in


@dataclass(slots=True)
class _LeftOut:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, why: str) -> None:
        self.count += 1
        if len(self.lines) < _NAMED_LEFT_OUT:
            self.lines.append(f"  {_shown(name)}: {why}")


@dataclass(slots=True)
class _Archive:
    """A ZIP that knows how much room is left below its bound, its central directory included."""

    zip: ZipFile
    owner: int  # of the working directory
    limit_bytes: int
    read_bytes_left: int
    left_out: _LeftOut
    central_bytes: int = 0

    def room_for(self, path: str) -> int:
        """Bytes of content that a member of this name may have when packed; below 0: none fits."""
        file = self.zip.fp
        assert file is not None  # noqa: S101  the archive is open
        return self.limit_bytes - file.tell() - self.central_bytes - _member_bytes(path)

    def added(self, path: str) -> None:
        self.central_bytes += _member_bytes(path)


def build_result(
    work_dir: Path,
    destination: Path,
    facts: RunFacts,
    output: bytes,
    max_result_bytes: int,
    *,
    max_read_bytes: int = DEFAULT_MAX_READ_BYTES,
) -> BuiltResult:
    """Write the result ZIP to `destination`, at most `max_result_bytes` large.

    The run must be over. No more than `max_read_bytes` of files are read. Raises OSError when the
    node's disk is full; then nothing is left of it.
    """
    left_out = _LeftOut()
    part = destination.with_name(destination.name + ".part")
    try:
        with part.open("wb+") as file:
            with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive:
                limit = max(0, max_result_bytes - _OVERHEAD_BYTES)
                owner = work_dir.lstat().st_uid
                bounded = _Archive(archive, owner, limit, max_read_bytes, left_out)
                _add_output(bounded, output, facts.finished_at)
                _add_files(bounded, work_dir)
                if facts.stopped:
                    archive.writestr(_member(TASK_STOPPED, facts.finished_at), _stopped_text(facts))
                archive.writestr(_member(EXECUTION_LOG, facts.finished_at), _log_text(facts, left_out))
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        part.replace(destination)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return BuiltResult(size, sha256, left_out.count)


def _add_output(archive: _Archive, output: bytes, finished_at: float) -> None:
    room = archive.room_for(TASK_LOGS)
    kept = output
    if len(output) + len(output) // 1000 > room and not _packs_into(io.BytesIO(output), room):
        kept = output[: max(0, room - room // 1000)]
        archive.left_out.add(TASK_LOGS, f"cut to its first {len(kept)} of {len(output)} bytes")
    archive.zip.writestr(_member(TASK_LOGS, finished_at), kept)
    archive.added(TASK_LOGS)


def _add_files(archive: _Archive, work_dir: Path) -> None:
    """Small files first: one large file must not crowd out all the others."""
    root = os.open(work_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        folders_left = _MAX_FOLDERS_OPENED
        for _, path in sorted(_TreeScan(root, archive.left_out).found()):
            folders_left -= path.count("/")
            if folders_left < 0:
                archive.left_out.add(path, "too many files lie too deep")
            else:
                _add_file(archive, root, path)
    finally:
        os.close(root)


@dataclass(slots=True)
class _TreeScan:
    """Size and path of every plain file, and of every folder with a slash at its end; all of it bounded."""

    root: int
    left_out: _LeftOut
    looked_at: int = 0
    names_bytes: int = 0
    files: list[tuple[int, str]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=lambda: [""])

    def found(self) -> list[tuple[int, str]]:
        folders_left = _MAX_FOLDERS_OPENED
        while self.waiting and self.looked_at <= _MAX_LOOKED_AT:
            folder = self.waiting.pop()
            folders_left -= folder.count("/")
            if folders_left < 0:
                self.left_out.add(folder, "too many folders lie too deep")
                continue
            try:
                descriptor = _open_below(
                    self.root, folder + ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                )
            except OSError as error:
                self.left_out.add(folder, f"cannot be read ({error.strerror})")
                continue
            try:
                self._look_into(descriptor, folder)
            finally:
                os.close(descriptor)
        return self.files

    def _look_into(self, descriptor: int, folder: str) -> None:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self.looked_at += 1
                if self.looked_at > _MAX_LOOKED_AT:
                    self.left_out.add(folder, f"nobody looks at more than {_MAX_LOOKED_AT} files")
                    return
                self._sort_out(folder + entry.name, entry)

    def _sort_out(self, path: str, entry: os.DirEntry[str]) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.left_out.add(path, f"cannot be read ({error.strerror})")
            return
        why = _why_not(path, status)
        if not why and len(self.files) >= MAX_RESULT_ENTRIES:
            why = f"there are more than {MAX_RESULT_ENTRIES} files"
        if not why and self.names_bytes + len(path) > _MAX_NAMES_BYTES:
            why = "the paths of all files together are too long"
        if why:
            self.left_out.add(path, why)
            return
        self.names_bytes += len(path.encode())
        if stat.S_ISREG(status.st_mode):
            self.files.append((status.st_size, path))
        else:
            self.files.append((0, path + "/"))
            self.waiting.append(path + "/")


def _why_not(path: str, status: os.stat_result) -> str:
    if path in _RESERVED:
        return "the name is the pool's own"
    if stat.S_ISLNK(status.st_mode):
        return "it is a link"
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return "it is a device, pipe or socket"
    if not _is_text(path) or len(path.encode()) >= MAX_PATH_BYTES or path.count("/") >= MAX_RESULT_DEPTH:
        return "its path is not text, or too long"
    return ""


def _add_file(archive: _Archive, root: int, path: str) -> None:
    room = archive.room_for(path)
    if room < 0:
        archive.left_out.add(path, "the result is full")
        return
    if path.endswith("/"):
        folder = ZipInfo(path)
        folder.external_attr = (stat.S_IFDIR | 0o755) << 16 | _DOS_FOLDER
        archive.zip.writestr(folder, b"")
        archive.added(path)
        return
    try:
        # Not blocking: a pipe in the file's place must not hold the agent up.
        descriptor = _open_below(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        archive.left_out.add(path, f"cannot be read ({error.strerror})")
        return
    with open(descriptor, "rb", buffering=0) as source:  # noqa: PTH123
        status = os.fstat(descriptor)
        why = _why_not_content(archive, source, status, room)
        if why:
            archive.left_out.add(path, why)
            return
        member = _member(path, status.st_mtime, status.st_mode)
        member.file_size = status.st_size  # tells zipfile whether it takes ZIP64
        with archive.zip.open(member, "w") as target:
            _copy(source, target, status.st_size)
        archive.added(path)


def _why_not_content(archive: _Archive, source: IO[bytes], status: os.stat_result, room: int) -> str:
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        return "it is a device, pipe or socket"
    if status.st_nlink > 1 and status.st_uid != archive.owner:
        # Whoever may make such a link may not be able to read the file, as the agent is.
        return "it is a hard link to somebody else's file"
    if size > archive.read_bytes_left:
        return f"its {size} bytes are more than is read of a working directory"
    archive.read_bytes_left -= size
    if size + size // 1000 > room and not _packs_into(source, room):
        return f"its {size} bytes do not fit into the result"
    source.seek(0)
    return ""


def _open_below(root: int, path: str, flags: int) -> int:
    """Open without following a link in any part of the path."""
    *folders, name = path.split("/")
    at = root
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            if at != root:
                os.close(at)
            at = below
        return os.open(name, flags, dir_fd=at)
    finally:
        if at != root:
            os.close(at)


def _packs_into(source: IO[bytes], room: int) -> bool:
    """Count what the file compresses to, without keeping any of it."""
    packer = zlib.compressobj(_ZIP_LEVEL, zlib.DEFLATED, -15)
    size = 0
    while chunk := source.read(_COPY_BYTES):
        size += len(packer.compress(chunk))
        if size > room:
            return False
    return size + len(packer.flush()) <= room


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (chunk := source.read(min(size, _COPY_BYTES))):
        target.write(chunk)
        size -= len(chunk)


def _member_bytes(path: str) -> int:
    """Local header and central entry of a member, generously."""
    return 2 * len(path.encode()) + _MEMBER_BYTES


def _member(name: str, modified: float, mode: int = 0o644) -> ZipInfo:
    earliest, latest = 315619200.0, 4354732800.0  # what a ZIP can say: 1980 to 2107
    moment = time.gmtime(min(max(modified, earliest), latest))
    member = ZipInfo(name, moment[:6])
    member.compress_type = ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | stat.S_IMODE(mode) & 0o777) << 16
    return member


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return name[:200].encode("ascii", "backslashreplace").decode().replace("\n", "\\n")


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else "never"


def _stopped_text(facts: RunFacts) -> str:
    return (
        f"Task {facts.task_id} was stopped at {_when(facts.finished_at)}.\n"
        "This archive has the files and the output that were there by then.\n"
    )


def _log_text(facts: RunFacts, left_out: _LeftOut) -> str:
    lines = [
        f"Task: {facts.task_id}",
        f"Attempt: {facts.attempt_id}",
        f"Node: {facts.node_id}",
        f"Status: {facts.status}",
        f"Exit code: {facts.exit_code}",
        f"Reason: {facts.reason or '-'}",
        f"Started: {_when(facts.started_at)}",
        f"Finished: {_when(facts.finished_at)}",
        f"Duration: {max(0.0, facts.finished_at - facts.started_at):.3f} seconds",
        f"CPU: {facts.cpu_seconds:.3f} seconds",
        f"Peak memory: {facts.peak_memory_bytes} bytes",
    ]
    if facts.dropped_output_bytes:
        lines.append(f"Output not kept: {facts.dropped_output_bytes} bytes")
    if left_out.count:
        lines += ["", f"Not in this archive ({left_out.count}):", *left_out.lines]
        if left_out.count > len(left_out.lines):
            lines.append(f"  and {left_out.count - len(left_out.lines)} more")
    return "\n".join(lines) + "\n"
