"""The attacks of `benchmarks.attacks`: that the bombs are what they say, and that all is bounded."""

from __future__ import annotations

import io
import struct
import zipfile

import psutil
import pytest

from benchmarks.attacks import bombs
from benchmarks.attacks.kinds import ATTACKS
from benchmarks.attacks.memory import measured


def test_the_folder_bomb_is_small_and_implies_two_million_folders() -> None:
    package = bombs.folders()
    assert len(package) < 10_000_000
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        names = file.namelist()
    assert len(names) <= 10_000
    assert sum(name.count("/") for name in names) > 1_900_000


def test_the_dense_package_is_found_out_by_reading_it_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "DENSE_BYTES", 5 << 20)
    with zipfile.ZipFile(io.BytesIO(bombs.late_damage(1))) as file:
        assert sum(entry.file_size for entry in file.infolist()) > 8 << 20
        assert file.testzip() == "ballast"


def test_the_dictionary_is_of_4_gib() -> None:
    package = bombs.lzma_dictionary()
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        entry = file.infolist()[0]
    assert entry.compress_type == zipfile.ZIP_LZMA
    properties = package[30 + len(entry.filename) :]
    assert struct.unpack("<I", properties[5:9])[0] == 2**32 - 1


def test_every_attack_has_a_name_of_its_own() -> None:
    assert len(set(ATTACKS.values())) == len(ATTACKS)


def test_processes_that_are_no_part_are_not_measured() -> None:
    assert measured([psutil.Process()]) == {}
