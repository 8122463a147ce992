"""The listing of a ZIP, read within bounds: its word is checked before any library takes it. Pure.

`zipfile` reads a whole listing into memory, whatever its length, and takes the word of its last record.
Here that record, the length of the listing, every name's length and the places of the entries are looked at
first, in time that is linear in what was sent. One rule for the client, the gateway, the agent, and results.
"""

from __future__ import annotations

import lzma
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import IO

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
# A name of common length and what a listing has beside it, for as many entries as are allowed.
_LISTING_BYTES_PER_ENTRY = 512
_LEAST_LISTING_BYTES = 1 << 16
_MAX_EXTRA_BYTES = 4096
_MAX_COMMENT_BYTES = 1024
_ENCRYPTED_FLAG = 0x1
_SIZES_FOLLOW_FLAG = 0x8
_UTF8_FLAG = 0x800
_LATER = 0xFFFFFFFF  # the ZIP64 field has the number
# These take little memory whatever an entry says; LZMA asks for up to 4 GiB when it is opened.
_PACKINGS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_OTHER_PACKINGS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\6\7"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\6\6"
_CENTRAL_BYTES = 46
_CENTRAL_SIGNATURE = b"PK\1\2"
_CENTRAL_LENGTHS = struct.Struct("<3H")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\3\4"

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    KeyError,
)


class ListingError(Exception):
    """Why the ZIP is not taken, as the end of a sentence that begins with what it is."""


@dataclass(frozen=True, slots=True)
class ListingBounds:
    max_entries: int  # files and folders
    max_depth: int  # folders in each other
    listing_bytes_per_entry: int = _LISTING_BYTES_PER_ENTRY
    max_path_bytes: int = MAX_PATH_BYTES

    @property
    def max_listing_bytes(self) -> int:
        return max(_LEAST_LISTING_BYTES, self.max_entries * self.listing_bytes_per_entry)


@dataclass(frozen=True, slots=True)
class EndRecord:
    entries: int
    listing_begins: int
    listing_bytes: int


@dataclass(frozen=True, slots=True)
class ZipListing:
    entries: list[zipfile.ZipInfo]
    begins: int


def read_listing(file: IO[bytes], bounds: ListingBounds) -> ZipListing:
    """The entries, of whose names nothing is known but their lengths: see Tree, and then `check_places`.

    Raises ListingError, or one of UNREADABLE.
    """
    end = check_end(file, bounds)
    _check_lengths(file, end, bounds)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) != end.entries:
        raise zipfile.BadZipFile("its listing has another number of entries than it says")
    for entry in entries:
        _check_packing(entry)
    return ZipListing(entries, end.listing_begins)


def check_end(file: IO[bytes], bounds: ListingBounds) -> EndRecord:
    """How long the listing is. Only the end of the file is read. Raises as `read_listing` does."""
    end = _read_end(file)
    if end.entries > bounds.max_entries:
        raise ListingError(f"has {end.entries} entries, more than the {bounds.max_entries} allowed")
    if end.listing_bytes > bounds.max_listing_bytes:
        raise ListingError(
            f"has a listing of {end.listing_bytes} bytes, more than the {bounds.max_listing_bytes} allowed: "
            "use shorter paths or fewer files"
        )
    return end


def _read_end(file: IO[bytes]) -> EndRecord:
    size = file.seek(0, 2)
    tail_bytes = min(size, _END.size + 0xFFFF)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    found = tail.rfind(_END_SIGNATURE)
    if found < 0 or len(tail) - found < _END.size:
        raise zipfile.BadZipFile("File is not a zip file")
    _, disk, first_disk, here, entries, length, begins, comment = _END.unpack_from(tail, found)
    if len(tail) - found - _END.size != comment:
        raise zipfile.BadZipFile("there are bytes after its end")
    if comment > _MAX_COMMENT_BYTES * 4:
        raise zipfile.BadZipFile("its comment is too long")
    if _ends_twice(tail, found):
        raise zipfile.BadZipFile("it has more than one end")
    if disk or first_disk or here != entries:
        raise zipfile.BadZipFile("it is one part of several")
    at = size - len(tail) + found
    wide = _read_wide_end(file, at)
    if wide is not None:
        for narrow, number, most in (
            (entries, wide.entries, 0xFFFF),
            (length, wide.listing_bytes, _LATER),
            (begins, wide.listing_begins, _LATER),
        ):
            if narrow not in {number, most}:
                raise zipfile.BadZipFile("its two ends do not agree")
        return wide
    if begins + length != at:
        raise zipfile.BadZipFile("its listing is not where it says")
    return EndRecord(entries, begins, length)


def _ends_twice(tail: bytes, found: int) -> bool:
    """Is there another end before this one, which reaches as far as the file and so is as good?"""
    other = tail.rfind(_END_SIGNATURE, 0, found)
    while other >= 0:
        if len(tail) - other >= _END.size:
            (comment,) = struct.unpack_from("<H", tail, other + _END.size - 2)
            if len(tail) - other - _END.size == comment:
                return True
        other = tail.rfind(_END_SIGNATURE, 0, other)
    return False


def _read_wide_end(file: IO[bytes], at: int) -> EndRecord | None:
    """The ZIP64 record, which must be right before the end and say the same as its locator."""
    if at < _LOCATOR.size:
        return None
    file.seek(at - _LOCATOR.size)
    signature, disk, place, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != _LOCATOR_SIGNATURE:
        return None
    expected = at - _LOCATOR.size - _END64.size
    if disk or disks > 1 or place != expected:
        raise zipfile.BadZipFile("its ZIP64 record is not where it says")
    file.seek(expected)
    record = _END64.unpack(file.read(_END64.size))
    signature, rest, _, _, disk, first_disk, here, entries, length, begins = record
    if signature != _END64_SIGNATURE or rest != _END64.size - 12 or disk or first_disk or here != entries:
        raise zipfile.BadZipFile("its ZIP64 record is not a usual one")
    if begins + length != expected:
        raise zipfile.BadZipFile("its listing is not where it says")
    return EndRecord(entries, begins, length)


def _check_lengths(file: IO[bytes], end: EndRecord, bounds: ListingBounds) -> None:
    """Every record of the listing, before an object is made of it."""
    file.seek(end.listing_begins)
    listing = file.read(end.listing_bytes)
    at = 0
    for _ in range(end.entries):
        if listing[at : at + 4] != _CENTRAL_SIGNATURE or at + _CENTRAL_BYTES > len(listing):
            raise zipfile.BadZipFile("its listing has another number of entries than it says")
        name, extra, comment = _CENTRAL_LENGTHS.unpack_from(listing, at + 28)
        begins = at + _CENTRAL_BYTES
        if name > bounds.max_path_bytes:
            shown = listing[begins : begins + 100].decode(errors="replace")
            raise ListingError(f"has an entry whose path is too long ({name} bytes): {shown!r}…")
        if extra > _MAX_EXTRA_BYTES or comment > _MAX_COMMENT_BYTES:
            raise ListingError("has an entry with a comment or an extra field that is too long")
        at = begins + name + extra + comment
    if at != len(listing):
        raise zipfile.BadZipFile("its listing has another number of entries than it says")


def _check_packing(entry: zipfile.ZipInfo) -> None:
    shown = repr(entry.filename[:100])
    if entry.flag_bits & _ENCRYPTED_FLAG:
        raise ListingError(f"has an entry {shown} that is encrypted; make it without a password")
    if entry.compress_type not in _PACKINGS:
        method = _OTHER_PACKINGS.get(entry.compress_type, f"method {entry.compress_type}")
        raise ListingError(
            f"has an entry {shown} that is packed by {method}; only stored and deflated ones are taken"
        )


def check_places(file: IO[bytes], listing: ZipListing) -> None:
    """Each entry has bytes of its own, which say of themselves what the listing says of them.

    Raises one of UNREADABLE.
    """
    ends = 0
    for entry in sorted(listing.entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < ends:
            raise zipfile.BadZipFile("entries overlap; that looks like a ZIP bomb")
        if not ends and entry.header_offset:
            raise zipfile.BadZipFile("there are bytes before its first entry")
        file.seek(entry.header_offset)
        head = file.read(_LOCAL.size)
        signature, _, flags, method, _, _, _, packed, _, name_bytes, extra_bytes = _LOCAL.unpack(head)
        if signature != _LOCAL_SIGNATURE:
            raise zipfile.BadZipFile(f"there is no entry {entry.filename[:100]!r} where the listing says")
        told = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_FLAG else "cp437")
        follows = flags & _SIZES_FOLLOW_FLAG
        if (
            file.read(name_bytes) != told
            or method != entry.compress_type
            or flags & _ENCRYPTED_FLAG
            or (packed not in {entry.compress_size, _LATER} and not (follows and not packed))
        ):
            raise zipfile.BadZipFile(
                f"the entry {entry.filename[:100]!r} says something else than the listing does"
            )
        ends = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes + entry.compress_size
        if ends > listing.begins:
            raise zipfile.BadZipFile("an entry reaches into the listing; that looks like a ZIP bomb")


def folded(name: str) -> str:
    """Equal for names that some file system takes for the same: their case and their way of accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


@dataclass(slots=True)
class PathTree:
    """Files and folders, those too that are only implied by a path. Its work ends at its bounds."""

    bounds: ListingBounds
    folds: bool = True  # names that differ in their case only are one name
    nodes: int = 0
    folders: int = 0
    _root: dict[str, object] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def add(self, path: str, *, is_folder: bool) -> None:
        """Raises ListingError."""
        key = folded(path) if self.folds else path
        if key in self._seen:
            raise ListingError(f"has two entries called {path[:100]!r}")
        self._seen.add(key)
        *parents, name = key.split("/", self.bounds.max_depth + 1)
        if len(parents) + is_folder > self.bounds.max_depth:
            raise ListingError(
                f"has an entry {path[:100]!r} in more than {self.bounds.max_depth} folders in each other"
            )
        at = self._root
        for parent in parents:
            at = self._folder(at, parent, path)
        if is_folder:
            self._folder(at, name, path)
        elif name in at:
            raise _twice(path)
        else:
            self._count()
            at[name] = None

    def _folder(self, at: dict[str, object], name: str, path: str) -> dict[str, object]:
        if name not in at:
            self._count()
            self.folders += 1
            below: dict[str, object] = {}
            at[name] = below
            return below
        found = at[name]
        if not isinstance(found, dict):
            raise _twice(path)
        return found

    def _count(self) -> None:
        self.nodes += 1
        if self.nodes > self.bounds.max_entries:
            raise ListingError(
                f"has more than {self.bounds.max_entries} files and folders, "
                "with the folders that only its paths name"
            )


def _twice(path: str) -> ListingError:
    return ListingError(f"uses {path[:100]!r}, or a folder of it, as a file and as a folder")
