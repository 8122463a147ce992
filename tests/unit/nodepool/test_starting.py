"""Which missing modules an extra would bring, and which are a defect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodepool.starting import missing, start


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (
            "celery.worker",
            "the package 'celery' is not installed; run: pip install 'hivemind-nodepool[agent]'",
        ),
        ("hivemind.nowhere", ""),
        ("worker_agent", ""),
        ("fcntl", ""),
        ("", ""),
    ],
)
def test_only_other_peoples_packages_are_to_be_installed(module: str, told: str) -> None:
    assert missing(ModuleNotFoundError("no", name=module), "agent") == told


def test_a_program_is_imported_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "starts_well.py").write_text("def main(): return 7\n")
    (tmp_path / "lacks_one.py").write_text("import a_package_of_nobody.inner\n")
    (tmp_path / "is_broken.py").write_text("import nodepool.of_no_such_name\n")
    assert start("program", "starts_well:main", "agent") == 7
    assert start("program", "lacks_one:main", "agent") == 2
    assert capsys.readouterr().err == (
        "program: the package 'a_package_of_nobody' is not installed; "
        "run: pip install 'hivemind-nodepool[agent]'\n"
    )
    with pytest.raises(ModuleNotFoundError, match="of_no_such_name"):
        start("program", "is_broken:main", "agent")
    sys.modules.pop("starts_well")
