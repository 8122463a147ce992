"""A result ZIP from a machine that is not trusted becomes a directory."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from hivemind.errors import BadResultError, RefusedError
from hivemind.zip_unpack import check_destination, fits_windows, unpack
from tests.support.bombs import folder_bomb, method_of, overlapping


def archive(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries:
            target.writestr(name, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_files_folders_and_the_executable_bit_arrive(tmp_path: Path) -> None:
    script = zipfile.ZipInfo("run.sh")
    script.external_attr = (stat.S_IFREG | 0o4755) << 16
    source = archive(tmp_path / "r.zip", [("a/b.txt", b"b"), ("empty/", b""), (script, b"true")])
    unpacked = unpack(source, tmp_path / "out")
    assert unpacked.files == ("a/b.txt", "run.sh")
    assert everything(tmp_path / "out") == ["a", "a/b.txt", "empty", "run.sh"]
    mode = (tmp_path / "out" / "run.sh").stat().st_mode
    assert mode & stat.S_IXUSR
    assert not mode & stat.S_ISUID


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..", "a/.."])
def test_an_entry_that_leaves_the_directory_makes_the_whole_result_refused(tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / "r.zip", [("good.txt", b""), (name, b"evil")])
    with pytest.raises(BadResultError, match="would leave"):
        unpack(source, tmp_path / "sub" / "out")
    assert everything(tmp_path) == ["r.zip", "sub"]


def test_links_are_left_out_and_cannot_be_written_through(tmp_path: Path) -> None:
    target = tmp_path / "victim"
    target.mkdir()
    source = archive(
        tmp_path / "r.zip",
        [(link("door"), str(target).encode()), ("door/evil.txt", b"evil"), ("good.txt", b"good")],
    )
    unpacked = unpack(source, tmp_path / "out")
    assert unpacked.warnings == ("left out 'door': it is a link or a device",)
    assert everything(target) == []
    assert (tmp_path / "out" / "door" / "evil.txt").read_bytes() == b"evil"


def test_odd_names_are_left_out_with_a_warning(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("ok.txt", b""), ("back\\slash", b""), ("bell\x07", b"")])
    unpacked = unpack(source, tmp_path / "out")
    assert unpacked.files == ("ok.txt",)
    assert len(unpacked.warnings) == 2


def test_folders_without_end_are_left_out(tmp_path: Path) -> None:
    deep = [f"{depth}/" + "a/" * (depth - 2) + "f" for depth in (60, 100, 500, 900)]
    source = archive(tmp_path / "r.zip", [(name, b"") for name in deep])
    unpacked = unpack(source, tmp_path / "out")
    assert unpacked.files == tuple(sorted(deep[:2]))
    assert len(unpacked.warnings) == 2


def test_many_warnings_are_summed_up(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [(f"{n}\x07", b"") for n in range(50)])
    warnings = unpack(source, tmp_path / "out").warnings
    assert len(warnings) == 21
    assert warnings[-1] == "left out 30 more"


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        source = archive(tmp_path / "r.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(BadResultError, match=r"two entries|as a folder"):
        unpack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("a", b"1"), ("a/b", b"2")])
    with pytest.raises(BadResultError, match=r"two entries|as a folder"):
        unpack(source, tmp_path / "out")


def test_a_bomb_is_stopped_at_the_limit_and_leaves_nothing(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("zeros", b"\0" * 5_000_000)])
    with pytest.raises(BadResultError, match="ZIP bomb"):
        unpack(source, tmp_path / "out", max_unpacked_bytes=1_000_000)
    assert everything(tmp_path) == ["r.zip"]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.zip").write_bytes(content)
    with pytest.raises(BadResultError):
        unpack(tmp_path / "r.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_content_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("a.txt", bytes(range(256)) * 40)])
    data = bytearray(source.read_bytes())
    name_length = struct.unpack_from("<H", data, 26)[0]
    data[30 + name_length + 20] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(BadResultError, match="readable ZIP"):
        unpack(source, tmp_path / "out")
    assert everything(tmp_path) == ["r.zip"]


def test_a_directory_with_files_is_kept_as_it_is_unless_told_otherwise(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("a.txt", b"new"), ("sub/b.txt", b"new")])
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "a.txt").write_text("old")
    (out / "sub" / "mine.txt").write_text("mine")
    with pytest.raises(RefusedError, match="not empty"):
        unpack(source, out)
    assert (out / "a.txt").read_text() == "old"
    unpack(source, out, overwrite=True)
    assert (out / "a.txt").read_text() == "new"
    assert everything(out) == ["a.txt", "sub", "sub/b.txt", "sub/mine.txt"]


def test_an_empty_directory_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unpack(archive(tmp_path / "r.zip", [("a.txt", b"")]), tmp_path / "out")
    assert everything(tmp_path / "out") == ["a.txt"]


def test_a_file_in_the_place_of_the_directory_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RefusedError, match="is a file"):
        check_destination(tmp_path / "out", overwrite=True)


def test_a_folder_bomb_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Two entries are a node's word for it; here 1,100 of them stand for 110,000 folders."""
    (tmp_path / "r.zip").write_bytes(folder_bomb(1100, 99))
    with pytest.raises(BadResultError, match="files and folders"):
        unpack(tmp_path / "r.zip", tmp_path / "out")
    assert everything(tmp_path) == ["r.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_may_ask_for_any_memory_is_refused_before_it_is_opened(tmp_path: Path, method: int) -> None:
    source = archive(tmp_path / "r.zip", [("a", b"x" * 100)])
    source.write_bytes(method_of(source.read_bytes(), method))
    with pytest.raises(BadResultError, match="only stored and deflated"):
        unpack(source, tmp_path / "out")


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.zip").write_bytes(overlapping(100, b"x" * 10_000))
    with pytest.raises(BadResultError, match="overlap"):
        unpack(tmp_path / "r.zip", tmp_path / "out")


def test_an_owner_who_expects_much_is_told_how_to_get_it(tmp_path: Path) -> None:
    source = archive(tmp_path / "r.zip", [("zeros", b"\0" * 5_000_000)])
    with pytest.raises(BadResultError) as refused:
        unpack(source, tmp_path / "out", max_unpacked_bytes=1_000_000)
    assert "--max-gib" in refused.value.hint
    assert unpack(source, tmp_path / "out", max_unpacked_bytes=5_000_000).files == ("zeros",)


@pytest.mark.parametrize("name", ["door/authorized_keys", "door"])
def test_links_that_are_there_already_are_never_written_through(tmp_path: Path, name: str) -> None:
    """The result of a node that knows of a link in its owner's directory."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "authorized_keys").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("old")
    (out / "door").symlink_to(victim if "/" in name else victim / "authorized_keys")
    source = archive(tmp_path / "r.zip", [("a.txt", b"new"), (name, b"evil")])
    if "/" in name:
        with pytest.raises(RefusedError, match="is a link"):
            unpack(source, out, overwrite=True)
        assert (out / "a.txt").read_text() == "old"  # nothing half done
    else:
        unpack(source, out, overwrite=True)
        assert not (out / "door").is_symlink()
    assert (victim / "authorized_keys").read_text() == "mine"


@pytest.mark.parametrize("name", ["CON", "nul.txt", "com1.log", "a:b", "end.", "end ", "LPT\u00b9"])
def test_names_with_another_meaning_on_windows_are_known(name: str) -> None:
    assert not fits_windows(name)
    assert fits_windows("console.txt")
