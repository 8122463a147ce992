"""Every setting stands in docs/settings.md and in .env.example, with its default and its meaning."""

from __future__ import annotations

import pytest

from scripts import settings_table
from tests.support.environment import ROOT

PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def test_every_setting_has_a_meaning() -> None:
    assert [setting.name for setting in settings_table.settings() if not setting.meaning] == []


def test_the_page_has_the_table_of_the_settings_as_they_are() -> None:
    assert settings_table.PART.put_into(PAGE) == PAGE, "run: python scripts/settings_table.py --write"


def test_the_example_of_an_env_file_has_every_setting_with_its_default_and_meaning() -> None:
    assert settings_table.env_problems(EXAMPLE) == []


def test_a_setting_that_is_missing_or_has_another_default_is_found() -> None:
    without = EXAMPLE.replace("#MAX_ATTEMPTS=5\n", "")
    other = EXAMPLE.replace("#GRPC_THREADS=20", "#GRPC_THREADS=21")
    assert settings_table.env_problems(without) == [".env.example has MAX_ATTEMPTS 0 times, not once"]
    assert settings_table.env_problems(other) == [".env.example should say #GRPC_THREADS=20"]


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        settings_table.PART.put_into("# nothing")
