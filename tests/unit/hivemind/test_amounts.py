"""Amounts with their units."""

from __future__ import annotations

import pytest

from hivemind import InvalidInputError
from hivemind.amounts import bytes_of, gibibytes_of, mebibytes_of, seconds_of, size_text


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("512M", 512), ("1.5G", 1536), ("2 GiB", 2048), ("1g", 1024), ("1T", 1 << 20), ("0.1G", 103),
        ("1K", 1), ("2048KB", 2),
    ],
)  # fmt: skip
def test_memory_is_said_with_its_unit(text: str, mebibytes: int) -> None:
    assert mebibytes_of(text, "memory") == mebibytes


@pytest.mark.parametrize(
    "value", [512, 1.5, True, None, "", "512", "G", "-1G", "1.5 apples", "1e3M", b"1G", "٣G"]
)
def test_memory_without_a_unit_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match='such as "512M"'):
        mebibytes_of(value, "memory")


@pytest.mark.parametrize("text", ["0M", "0.0G", "999999999T"])
def test_memory_that_no_node_gives_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="memory must be"):
        mebibytes_of(text, "memory")


def test_nothing_is_lost_by_rounding() -> None:
    assert bytes_of("0.0001K", "it") == 1
    assert gibibytes_of("1.1G", "gpu_memory") == 2


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", None, True])
def test_seconds_are_a_number(value: object) -> None:
    with pytest.raises(InvalidInputError, match="timeout must be a number of seconds"):
        seconds_of(value, "timeout")


def test_sizes_are_shown_as_they_are_said() -> None:
    assert [size_text(amount) for amount in (512, 1024, 1536)] == ["512 MiB", "1 GiB", "1.5 GiB"]
