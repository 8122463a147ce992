"""Every hostile ZIP is refused with a sentence; honest ones are taken."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits, check_package, disk_bytes, entry_script
from nodepool.domain.tasks.zip_listing import ListingBounds, PathTree
from tests.support.bombs import folder_bomb, method_of, overlapping, with_end

LIMITS = PackageLimits(max_unpacked_bytes=4 << 20, max_entries=20, max_ratio=100)
MAIN = ("main.py", b"print(1)\n")
LINK = stat.S_IFLNK | 0o777
PIPE = stat.S_IFIFO | 0o600
DEVICE = stat.S_IFCHR | 0o600


def zipped(*entries: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """main.py and these entries, of this file type."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(*MAIN)
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, however strange
            info.external_attr = mode << 16
            info.compress_type = method
            archive.writestr(info, content)
    return buffer.getvalue()


def check(package: bytes, limits: PackageLimits = LIMITS) -> list[str]:
    return [entry.filename for entry in check_package(io.BytesIO(package), limits, read_all=True)]


def refusal(package: bytes, limits: PackageLimits = LIMITS) -> str:
    with pytest.raises(InvalidPackageError) as refused:
        check(package, limits)
    return str(refused.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_package_is_taken(method: int) -> None:
    package = zipped(("data/", b""), ("data/名字.txt", b"x" * 1000), ("empty", b""), method=method)
    assert check(package) == ["main.py", "data/", "data/名字.txt", "empty"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("../up.py", "leaves the package's folder"),
        ("a/../../up.py", "leaves the package's folder"),
        ("a/..", "leaves the package's folder"),
        (".", "leaves the package's folder"),
        ("a//b", "an empty part"),
        ("./a", "leaves the package's folder"),
        ("/etc/passwd", "an absolute path"),
        ("C:/windows", "an absolute path"),
        ("C:evil", "an absolute path"),
        ("a\\..\\b", "a character that is not allowed"),
        ("a\nb", "a character that is not allowed"),
        ("a\x1b[31m", "a character that is not allowed"),
        ("a\u202eyp.exe", "a character that is not allowed"),
        ("a\u200bb", "a character that is not allowed"),
        ("a\u3164b", "a character that is not allowed"),
        ("x" * 256, "is too long"),
        ("/".join(["x" * 200] * 6), "is too long"),
        ("main.py", "two entries called"),
        ("MAIN.py", "two entries called"),
        ("main.py/", "two entries called"),
        ("main.py/inside", "as a file and as a folder"),
        ("Main.PY/inside", "as a file and as a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_could_harm_is_refused(name: str, what: str) -> None:
    assert what in refusal(zipped((name, b"")))


def test_a_name_with_a_hidden_end_is_refused() -> None:
    package = zipped(("innocent.txt#.py", b"")).replace(b"innocent.txt#", b"innocent.txt\0")
    assert "a character that is not allowed" in refusal(package)


@pytest.mark.parametrize("mode", [LINK, PIPE, DEVICE, stat.S_IFSOCK, stat.S_IFBLK])
def test_links_pipes_and_devices_are_refused(mode: int) -> None:
    assert "a link or a device" in refusal(zipped(("link", b"/etc/passwd"), mode=mode))


def test_an_encrypted_entry_is_refused() -> None:
    package = bytearray(zipped())
    package[package.index(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted" in refusal(bytes(package))


@pytest.mark.parametrize(
    ("method", "word"),
    [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA"), (93, "Zstandard"), (77, "77")],
)
def test_a_packing_that_may_ask_for_any_memory_is_refused_before_it_is_opened(method: int, word: str) -> None:
    assert f"packed by {word}" in refusal(method_of(zipped(("file", b"x" * 100)), method)).replace(
        "method ", ""
    )


def test_folders_that_only_paths_name_count_as_entries() -> None:
    deep = PackageLimits(max_entries=20, max_depth=32)
    assert "more than 20 files and folders" in refusal(folder_bomb(4, 10), deep)
    assert len(check(folder_bomb(3, 5), deep)) == 4  # 1 + 3 files, 15 folders
    assert "more than 20 files and folders" in refusal(folder_bomb(4, 5), deep)


def test_folders_in_each_other_are_bounded() -> None:
    limits = PackageLimits(max_entries=100, max_depth=5)
    assert check(folder_bomb(1, 5), limits)
    assert "more than 5 folders in each other" in refusal(folder_bomb(1, 6), limits)
    assert "more than 5 folders in each other" in refusal(zipped(("d/" * 6, b"")), limits)


def test_the_work_on_a_folder_bomb_ends_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 folders in 1,000 entries: counted in folders made, not in time."""
    trees: list[PathTree] = []

    def kept(bounds: ListingBounds) -> PathTree:
        trees.append(PathTree(bounds))
        return trees[-1]

    monkeypatch.setattr("nodepool.domain.tasks.package_rules.PathTree", kept)
    assert "files and folders" in refusal(
        folder_bomb(1000, 200), PackageLimits(max_entries=2000, max_depth=300)
    )
    assert trees[0].nodes == 2001


def test_a_listing_that_is_long_or_lies_is_refused_before_it_is_read() -> None:
    many = zipped(*((f"f{number}", b"") for number in range(20)))
    assert "21 entries, more than the 20 allowed" in refusal(many)
    assert "another number of entries" in refusal(with_end(many, entries=20))
    assert "not where it says" in refusal(with_end(zipped(), size=1 << 30))
    long = zipped(
        *((f"{number}/{'n' * 250}/{'n' * 250}/{'n' * 250}/{'n' * 250}", b"") for number in range(150))
    )
    assert "has a listing of" in refusal(long, PackageLimits(max_entries=200))


def test_entries_that_overlap_are_refused() -> None:
    assert "overlap" in refusal(overlapping(10, b"x" * 1000))


def test_bytes_before_between_and_behind_are_no_hiding_place() -> None:
    assert "not where it says" in refusal(b"#!/bin/sh\n" + zipped())
    assert "bytes after its end" in refusal(zipped() + b"more")
    buffer = io.BytesIO(b"#!/usr/bin/python\n" + bytes(100))
    buffer.seek(0, 2)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(*MAIN)
    assert "bytes before its first entry" in refusal(buffer.getvalue())


def test_a_zip_with_two_ends_is_refused() -> None:
    inner = zipped(("one", b"1"))
    outer = bytearray(zipped(("two", b"2")))
    struct.pack_into("<H", outer, len(outer) - 2, len(inner))
    assert "not where it says" in refusal(bytes(outer) + inner) or "more than one end" in refusal(
        bytes(outer) + inner
    )
    end = zipped()[-22:]
    twice = bytearray(zipped())
    struct.pack_into("<H", twice, len(twice) - 2, len(end))
    assert refusal(bytes(twice) + end)


def test_an_entry_that_says_something_else_than_the_listing_is_refused() -> None:
    package = bytearray(zipped(("file", b"x" * 100)))
    at = package.rindex(b"PK\3\4")
    package[at + 30 : at + 34] = b"f1le"
    assert "says something else" in refusal(bytes(package))


def test_a_zip64_record_that_lies_is_refused() -> None:
    data = zipped()
    at = len(data) - 22
    begins = struct.unpack_from("<L", data, at + 16)[0]
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, at - begins, begins)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    assert check(data[:at] + record + locator + data[at:]) == ["main.py"]
    millions = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 9 << 20, 9 << 20, at - begins, begins)
    assert "ends do not agree" in refusal(data[:at] + millions + locator + data[at:])
    elsewhere = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    assert "ZIP64 record is not where it says" in refusal(data[:at] + record + elsewhere + data[at:])


@pytest.mark.parametrize(
    ("first", "second"),
    [("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE"), ("\u212bngstrom", "\u00c5ngstrom")],
)
def test_names_that_some_file_system_takes_for_the_same_are_refused(first: str, second: str) -> None:
    assert "two entries called" in refusal(zipped((first, b""), (second, b"")))
    assert "as a file and as a folder" in refusal(zipped((first, b""), (f"{second}/x", b"")))


def test_too_many_entries_are_refused() -> None:
    package = zipped(*((f"f{number}", b"") for number in range(20)))
    assert "21 entries, more than the 20 allowed" in refusal(package)


def test_a_package_that_unpacks_to_too_much_is_refused() -> None:
    rng = random.Random(1)
    assert "unpacks to" in refusal(zipped(("big", rng.randbytes((4 << 20) + 1))))


def test_a_bomb_is_refused_and_a_small_file_of_zeros_is_not() -> None:
    assert "ZIP bomb" in refusal(zipped(("zeros", bytes(3 << 20))))
    assert check(zipped(("zeros", bytes(900_000)))) == ["main.py", "zeros"]


def _with_size(package: bytes, size: int) -> bytes:
    """The last entry's size in the directory is said to be this."""
    patched = bytearray(package)
    struct.pack_into("<I", patched, package.rindex(b"PK\x01\x02") + 24, size)
    return bytes(patched)


def test_a_size_that_lies_is_found() -> None:
    package = zipped(("file", b"0123456789" * 10))
    assert refusal(_with_size(package, 50))
    assert refusal(_with_size(package, 200))


def test_a_changed_byte_is_found() -> None:
    package = zipped(("file", b"0123456789"), method=zipfile.ZIP_STORED)
    assert "not a readable ZIP file" in refusal(package.replace(b"0123456789", b"0123456780", 1))


@pytest.mark.parametrize("package", [b"", b"PK", b"not a zip at all" * 100, b"PK\x05\x06" + bytes(17)])
def test_what_is_no_zip_is_refused(package: bytes) -> None:
    assert "not a readable ZIP file" in refusal(package)


def test_an_empty_zip_is_refused() -> None:
    assert "an empty ZIP file" in refusal(b"PK\x05\x06" + bytes(18))


@pytest.mark.parametrize("cut", [10, 50, 90])
def test_a_cut_zip_is_refused(cut: int) -> None:
    package = zipped(("file", b"x" * 300))
    assert refusal(package[: len(package) * cut // 100])


def test_a_package_with_nothing_to_run_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sub/main.py", "")
        archive.writestr("readme.txt", "")
    assert "nothing to run" in refusal(buffer.getvalue())


def _damaged(rng: random.Random, package: bytes) -> bytes:
    data = bytearray(package)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data))
        if rng.random() < 0.7:
            data[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        else:
            data[place : place + 4] = rng.choice([b"", b"\xff" * 8, bytes(4)])
    return bytes(data)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_no_damage_makes_anything_but_a_refusal(method: int) -> None:
    rng = random.Random(method)
    package = zipped(("data/x.txt", b"some text " * 30), ("ü", b"y"), method=method)
    for _ in range(1500):
        try:
            check(_damaged(rng, package))
        except InvalidPackageError:
            continue


@pytest.mark.parametrize(
    ("names", "entry"),
    [
        (["main.py", "run.sh"], "run.sh"),
        (["app.py", "main.py"], "main.py"),
        (["task_script.py", "run.py"], "task_script.py"),
        (["b.py", "a.py"], "a.py"),
        (["sub/run.sh", "z.py"], "z.py"),
    ],
)
def test_what_is_run(names: list[str], entry: str) -> None:
    assert entry_script(names) == entry


def test_without_reading_all_only_the_directory_is_looked_at() -> None:
    package = zipped(("file", b"0123456789"), method=zipfile.ZIP_STORED)
    changed = package.replace(b"0123456789", b"0123456780", 1)
    look: Callable[..., object] = check_package
    assert look(io.BytesIO(changed), LIMITS)


def test_what_a_package_takes_on_a_disk_counts_folders_and_whole_blocks() -> None:
    entries = check_package(io.BytesIO(zipped(("a/b/one", b"1"))), LIMITS)
    blocks = 2 + 2 + 2  # two files with their content, and two folders
    assert disk_bytes(entries) == blocks * 4096
