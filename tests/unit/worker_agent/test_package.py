"""Packages: kept by hash, unpacked safely."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits
from worker_agent.package import PackageCache
from worker_agent.trash import remove_tree
from worker_agent.unpack import unpack

LIMITS = PackageLimits(max_unpacked_bytes=1 << 20, max_entries=20)


def zipped(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept(cache: PackageCache, sha256: str) -> bytes | None:
    descriptor = cache.open(sha256)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123
        return file.read()


def store(cache: PackageCache, data: bytes) -> None:
    os.close(cache.store(sha(data), [data[:3], data[3:]], 1 << 20))


def package_file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "package.zip"
    path.write_bytes(data)
    (tmp_path / "work").mkdir()
    return path


def test_a_package_unpacks_with_folders_and_tells_its_entry(tmp_path: Path) -> None:
    package = package_file(tmp_path, zipped([("main.py", b"print()"), ("data/a.txt", b"a"), ("empty/", b"")]))
    assert unpack(package, tmp_path / "work", LIMITS) == "main.py"
    assert (tmp_path / "work/data/a.txt").read_bytes() == b"a"
    assert (tmp_path / "work/empty").is_dir()


def test_a_package_unpacks_from_a_descriptor_that_stays_open(tmp_path: Path) -> None:
    package = package_file(tmp_path, zipped([("run.sh", b"echo")]))
    descriptor = os.open(package, os.O_RDONLY)
    try:
        assert unpack(descriptor, tmp_path / "work", LIMITS) == "run.sh"
        assert os.fstat(descriptor).st_size > 0
    finally:
        os.close(descriptor)


def test_only_the_executable_bit_of_a_mode_is_taken_over(tmp_path: Path) -> None:
    tool = zipfile.ZipInfo("tool")
    tool.external_attr = (stat.S_IFREG | 0o6777) << 16
    package = package_file(tmp_path, zipped([("main.py", b""), (tool, b"#!/bin/sh")]))
    unpack(package, tmp_path / "work", LIMITS)
    assert stat.S_IMODE((tmp_path / "work/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "work/main.py").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil", "a/../../evil", "a//b", "C:evil", "back\\slash", "new\nline"]
)
def test_a_path_that_leaves_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    package = package_file(tmp_path, zipped([("main.py", b""), (name, b"evil")]))
    with pytest.raises(InvalidPackageError):
        unpack(package, tmp_path / "work", LIMITS)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    package = package_file(tmp_path, zipped([("main.py", b""), (link, b"/etc/passwd")]))
    with pytest.raises(InvalidPackageError, match="link"):
        unpack(package, tmp_path / "work", LIMITS)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    package = package_file(tmp_path, zipped([("main.py", b""), ("zeros", bytes(2 << 20))]))
    with pytest.raises(InvalidPackageError, match="unpacks to"):
        unpack(package, tmp_path / "work", LIMITS)


def test_an_entry_whose_bytes_are_not_its_own_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped([("main.py", b"print('hello')" * 50)]))
    at = data.index(b"main.py") + len("main.py") + 4
    data[at] ^= 0xFF
    with pytest.raises(InvalidPackageError):
        unpack(package_file(tmp_path, bytes(data)), tmp_path / "work", LIMITS)


def test_an_entry_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped([("main.py", b"x" * 5000)]))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    with pytest.raises(InvalidPackageError):
        unpack(package_file(tmp_path, bytes(data)), tmp_path / "work", LIMITS)


@pytest.mark.parametrize(
    "data", [b"", b"not a zip", zipped([("main.py", b"x" * 100)])[:-30]], ids=["empty", "text", "cut off"]
)
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidPackageError):
        unpack(package_file(tmp_path, data), tmp_path / "work", LIMITS)


def test_the_cache_gives_back_what_was_stored(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 1000)
    store(cache, b"package")
    assert kept(cache, sha(b"package")) == b"package"
    assert cache.hashes() == [sha(b"package")]
    assert kept(cache, sha(b"other")) is None


def test_a_package_with_another_hash_is_not_kept(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 1000)
    with pytest.raises(InvalidPackageError, match="another SHA-256"):
        cache.store(sha(b"right"), [b"wrong"], 1000)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_over_its_size_is_not_kept(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 1000)
    with pytest.raises(InvalidPackageError, match="larger than 5"):
        cache.store(sha(b"package"), iter([b"pack", b"age"]), 5)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterable[bytes]:
        yield b"pack"
        raise ConnectionError

    cache = PackageCache(tmp_path / "cache", 1000)
    with pytest.raises(ConnectionError):
        cache.store(sha(b"package"), broken(), 1000)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_least_recently_used_package_goes_first(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 25)
    first, second, third = b"1" * 10, b"2" * 10, b"3" * 10
    store(cache, first)
    store(cache, second)
    for age, data in ((200, first), (100, second)):
        os.utime(tmp_path / "cache" / sha(data), (age, age))
    assert kept(cache, sha(first)) == first  # used just now
    store(cache, third)
    assert set(cache.hashes()) == {sha(first), sha(third)}


def test_packages_of_a_few_bytes_are_bounded_by_their_number(tmp_path: Path) -> None:
    """Each takes a block and an inode, whatever its size."""
    cache = PackageCache(tmp_path / "cache", 1 << 20, max_kept=2)
    for data in (b"1", b"2", b"3"):
        store(cache, data)
    assert len(cache.hashes()) == 2
    assert sha(b"3") in cache.hashes()


def test_a_package_larger_than_the_cache_is_still_given_out(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 5)
    descriptor = cache.store(sha(b"0123456789"), [b"0123456789"], 100)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        assert file.read() == b"0123456789"


def test_an_evicted_package_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 10)
    descriptor = cache.store(sha(b"0123456789"), [b"0123456789"], 100)
    os.utime(tmp_path / "cache" / sha(b"0123456789"), (1, 1))
    store(cache, b"abcdefghij")
    assert cache.hashes() == [sha(b"abcdefghij")]
    with open(descriptor, "rb") as file:  # noqa: PTH123
        assert file.read() == b"0123456789"


def test_a_kept_package_that_rotted_is_dropped(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache", 100)
    store(cache, b"package")
    (tmp_path / "cache" / sha(b"package")).write_bytes(b"rotten!")
    assert cache.open(sha(b"package")) is None
    assert cache.hashes() == []


def test_what_a_crash_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    PackageCache(tmp_path / "cache", 100)
    (tmp_path / "cache/half.part").write_bytes(b"x")
    PackageCache(tmp_path / "cache", 100)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../etc/passwd", "A" * 64, "0" * 63])
def test_what_is_no_hash_names_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidPackageError):
        PackageCache(tmp_path / "cache", 100).open(name)


def test_a_tree_too_deep_for_python_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    remove_tree(top)
    assert not top.exists()
    remove_tree(top)
