"""hivemind.toml: where it is looked for, and what it may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind import project_file
from hivemind.errors import RefusedError


def written(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / project_file.FILE_NAME
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_the_nearest_file_up_to_the_root_of_the_repository_counts(tmp_path: Path) -> None:
    written(tmp_path, "")
    root, task = tmp_path / "project", tmp_path / "project/tasks/train"
    task.mkdir(parents=True)
    assert project_file.find(task) is None, "outside of a repository nothing above is looked at"
    (root / ".git").mkdir()
    assert project_file.find(task) is None, "what is above the repository is somebody else's"
    of_root = written(root, "")
    (task / "main.py").write_text("")
    assert project_file.find(task) == project_file.find(task / "main.py") == of_root
    of_task = written(task, "")
    assert project_file.find(task) == of_task


def test_options_variables_and_labels_are_read(tmp_path: Path) -> None:
    text = (
        '\ufeff[submit]\r\nmax_minutes = 30\r\nlocation = "asia"\r\n'
        'env = { MODE = "fast" }\r\nlabels = { of = "thesis" }\r\n'
    )
    found = project_file.read(written(tmp_path, text))
    assert found.options == {"max-minutes": 30, "location": "asia"}
    assert (found.environment, found.labels) == ({"MODE": "fast"}, {"of": "thesis"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[submit", "is not TOML"),
        (b"\xff\xfe[\0s\0", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("#" * (65 << 10), "more than 64 KiB"),
        ("[deploy]\n", "there is no [deploy], only [submit]"),
        ("submit = 3\n", "[submit] must be a table"),
        ("[submit]\nenv = ['A=1']\n", "env must be a table of texts"),
        ("[submit]\nlabels = { a = 1 }\n", "labels must be a table of texts"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(RefusedError) as told:
        project_file.read(written(tmp_path, text))
    assert words in str(told.value)
    assert project_file.FILE_NAME in str(told.value)
