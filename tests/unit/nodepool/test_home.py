from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from nodepool.home import home


def test_home_is_what_the_environment_says() -> None:
    assert home({"HOME": "/somewhere"}) == Path("/somewhere")


def test_a_user_without_a_name_is_at_home_in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    nobodys = next(
        each for each in range(54321, 60000) if each not in {user.pw_uid for user in pwd.getpwall()}
    )
    monkeypatch.setattr(os, "getuid", lambda: nobodys)
    monkeypatch.delenv("HOME")
    assert home({}) == Path("/")
