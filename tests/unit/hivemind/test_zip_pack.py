"""A directory becomes a package: determinism, ignore rules, hostile content."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given, strategies as st
from pathspec import GitIgnoreSpec

from hivemind.errors import MissingError, RefusedError
from hivemind.ignore_rules import LinearPattern
from hivemind.zip_pack import IGNORE_FILE, open_package
from nodepool.domain.tasks.package_rules import PackageLimits


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed(path: Path) -> bytes:
    package = open_package(path)
    try:
        data = package.read()
        assert package.size_bytes == len(data)
        assert b"".join(package.chunks(7)) == data
        return data
    finally:
        package.close()


def names(path: Path) -> list[str]:
    package = open_package(path)
    try:
        return zipfile.ZipFile(package.file).namelist()
    finally:
        package.close()


def warnings(path: Path) -> tuple[str, ...]:
    package = open_package(path)
    package.close()
    return package.warnings


def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order_they_were_written(
    tmp_path: Path,
) -> None:
    files = {"main.py": "print(1)", "data/b.txt": "b", "data/a.txt": "a", "z.txt": "z"}
    first = write(tmp_path / "one", files)
    second = write(tmp_path / "two", dict(reversed(files.items())))
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
    assert packed(first) == packed(second)
    assert names(first) == ["data/a.txt", "data/b.txt", "main.py", "z.txt"]


def test_the_executable_bit_is_kept_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, {"run.sh": "true", "secret.txt": "x"})
    (tmp_path / "run.sh").chmod(0o4751)
    (tmp_path / "secret.txt").chmod(0o600)
    package = open_package(tmp_path)
    modes = {
        e.filename: stat.S_IMODE(e.external_attr >> 16) for e in zipfile.ZipFile(package.file).infolist()
    }
    package.close()
    assert modes == {"run.sh": 0o755, "secret.txt": 0o644}


def test_caches_environments_and_secrets_stay_here(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": "",
            ".git/config": "",
            "lib/__pycache__/x.cpython-311.pyc": "",
            "lib/old.pyc": "",
            ".venv/bin/python": "",
            "node_modules/left-pad/index.js": "",
            ".env": "PASSWORD=1",
            IGNORE_FILE: "",
        },
    )
    assert names(tmp_path) == ["lib/", "main.py"]


SECRET_FILES = (
    ".aws/credentials", ".config/gcloud/x.db", ".env.local", ".env", ".git-credentials",
    ".ipynb_checkpoints/a.ipynb", ".netrc", ".pgpass",
    ".ssh/config", "certs/ca.PEM", "certs/server.key", "id_ed25519", "id_rsa.bak",
    "service-account-7.json",
)  # fmt: skip


def test_what_may_be_secret_stays_here_and_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "", ".env.example": "", "keys.py": "", **dict.fromkeys(SECRET_FILES, "x")})
    assert names(tmp_path) == [".config/", "certs/", ".env.example", "keys.py", "main.py"]
    (line,) = warnings(tmp_path)
    assert line == (
        "left out what may be secret: .aws/, .config/gcloud/, .env, .env.local, .git-credentials, "
        ".ipynb_checkpoints/ and 8 more (--include PATTERN sends it)"
    )


@pytest.mark.parametrize(
    ("include", "sent"),
    [
        ([".env.local"], [".env.local"]),
        (["*.key", "id_*"], ["certs/server.key", "id_ed25519", "id_rsa.bak"]),
        (["certs/"], ["certs/ca.PEM", "certs/server.key"]),
        (["/.aws/credentials"], [".aws/credentials"]),
        ([".ssh/"], [".ssh/config"]),
        (["venv/lib/a.pyc"], ["venv/lib/a.pyc"]),
        (["notes.md"], ["notes.md"]),
    ],
)
def test_what_is_included_by_its_name_is_sent(tmp_path: Path, include: list[str], sent: list[str]) -> None:
    more = {"venv/lib/a.pyc": "", "notes.md": "", IGNORE_FILE: "notes.md\n"}
    write(tmp_path, {"main.py": "", **more, **dict.fromkeys(SECRET_FILES, "x")})
    with contextlib.closing(open_package(tmp_path, include=include)) as package:
        found = [name for name in zipfile.ZipFile(package.file).namelist() if not name.endswith("/")]
    assert found == sorted([*sent, "main.py"])
    assert not any("there is no such file" in line for line in package.warnings)


def test_an_include_that_finds_nothing_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "", ".env": ""})
    with contextlib.closing(open_package(tmp_path, include=[".envv"])) as package:
        assert package.warnings[-1] == f"--include .envv: there is no such file in {tmp_path}"
    with pytest.raises(RefusedError, match="line 1 of --include is longer"):
        open_package(tmp_path, include=["x" * 300])


def test_a_zip_of_ones_own_is_sent_as_it_is_with_a_word_of_what_may_be_secret(tmp_path: Path) -> None:
    made = tmp_path / "task.zip"
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("main.py", ".env", "deep/id_rsa"):
            archive.writestr(name, "x")
    assert names(made) == ["main.py", ".env", "deep/id_rsa"]
    assert warnings(made) == ("the ZIP is sent as it is, with what may be secret: .env, deep/id_rsa",)


def test_the_ignore_file_follows_the_rules_of_gitignore(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": "",
            "data/big.csv": "",
            "data/small.csv": "",
            "deep/er/notes.md": "",
            "notes.md": "",
            "build/out.txt": "",
            "src/build/kept.txt": "",
            ".env": "wanted",
            IGNORE_FILE: "# comment\n*.csv\n!small.csv\n/notes.md\n/build/\n!.env\n",
        },
    )
    assert names(tmp_path) == [".env", "data/small.csv", "deep/er/notes.md", "main.py", "src/build/kept.txt"]


def test_an_empty_directory_is_kept(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": ""})
    (tmp_path / "out").mkdir()
    assert names(tmp_path) == ["out/", "main.py"]


def test_links_are_left_out_with_a_warning_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not for the pool")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "more.txt").write_text("nor this")
    task = write(tmp_path / "task", {"main.py": ""})
    (task / "file_link").symlink_to(tmp_path / "secret.txt")
    (task / "folder_link").symlink_to(tmp_path / "outside")
    (task / "loop").symlink_to(task)
    (task / "dangling").symlink_to("nowhere")
    assert names(task) == ["main.py"]
    assert warnings(task) == tuple(
        f"left out {name}: it is a link" for name in ("dangling", "file_link", "folder_link", "loop")
    )


def test_a_named_pipe_is_left_out_instead_of_waited_for(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": ""})
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == ["main.py"]
    assert warnings(tmp_path) == ("left out pipe: it is not a plain file",)


def test_a_directory_with_nothing_to_run_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    write(tmp_path, {"readme.txt": "", "lib/main.py": ""})
    with pytest.raises(RefusedError, match="nothing to run"):
        open_package(tmp_path)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="empty ZIP"):
        open_package(tmp_path)


def test_a_directory_over_the_limits_is_refused_while_it_is_listed(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "x" * 100, **{f"{n}.txt": "" for n in range(20)}})
    with pytest.raises(RefusedError, match="more than 10 files"):
        open_package(tmp_path, PackageLimits(max_entries=10))
    with pytest.raises(RefusedError, match="over 99 bytes"):
        open_package(tmp_path, PackageLimits(max_unpacked_bytes=99))


def test_a_zip_is_sent_as_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "task.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("main.py", "print(1)")
    assert packed(archive) == archive.read_bytes()


def test_a_single_python_file_is_a_package_too(tmp_path: Path) -> None:
    write(tmp_path, {"pi.py": "print(3)"})
    assert names(tmp_path / "pi.py") == ["pi.py"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.zip", b"", "not a readable ZIP"),
        ("x.zip", b"PK\x03\x04 but no more", "not a readable ZIP"),
        ("x.tar", b"anything", "not a readable ZIP"),
    ],
)
def test_what_is_no_zip_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedError, match=words):
        open_package(tmp_path / name)


def test_a_hostile_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "task.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("main.py", "")
        target.writestr("../outside.py", "")
    with pytest.raises(RefusedError, match="leaves the package's folder"):
        open_package(archive)


def test_a_path_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no file or directory"):
        open_package(tmp_path / "nowhere")


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": ""})
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("")
    with pytest.raises(RefusedError, match="not Unicode"):
        open_package(tmp_path)


def test_folders_count_like_files(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "", "a/b/c/d/e/f/g/h/i.txt": ""})
    with pytest.raises(RefusedError, match="more than 9 files and folders"):
        open_package(tmp_path, PackageLimits(max_entries=9))
    package = open_package(tmp_path, PackageLimits(max_entries=10))
    package.close()
    assert package.files == 2


@pytest.mark.parametrize("name", ["a/" * 33 + "x.txt", "da\u202eta.txt", "back\\slash.txt", "new\nline"])
def test_what_a_pool_would_refuse_is_said_before_it_is_packed_with_its_path(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, {"main.py": "", name: ""})
    with pytest.raises(RefusedError) as refused:
        open_package(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert IGNORE_FILE in refused.value.hint


EVIL = "*a" * 60 + "*b"


def test_patterns_of_somebody_elses_ignore_file_cannot_keep_the_machine_busy(tmp_path: Path) -> None:
    """Each of these would be tried in more ways than there are seconds, if it were tried again."""
    lines = [EVIL, f"/{EVIL}/x", f"d/{EVIL}", "**/" + "*a" * 60 + "?b", "a*" * 100 + "[bc]"]
    write(tmp_path, {"main.py": "", "a" * 250: "", "d/" + "a" * 250: "", IGNORE_FILE: "\n".join(lines)})
    assert names(tmp_path) == ["a" * 250, "d/" + "a" * 250, "main.py"]


@given(
    st.lists(
        st.sampled_from(["a", "b", "*", "**/", "?", "/", "[ab]", "!", "ab"]), min_size=1, max_size=8
    ).map("".join),
    st.lists(st.sampled_from(["a", "b", "/", "ab"]), min_size=1, max_size=10).map("".join),
)
def test_patterns_mean_what_they_mean_to_git(pattern: str, path: str) -> None:
    assume(path.strip("/") and "//" not in path)
    try:
        theirs = GitIgnoreSpec.from_lines([pattern], backend="simple")
    except ValueError:
        with pytest.raises(ValueError, match=r"[Pp]attern"):
            GitIgnoreSpec.from_lines([pattern], LinearPattern, backend="simple")
        return
    ours = GitIgnoreSpec.from_lines([pattern], LinearPattern, backend="simple")
    assert ours.match_file(path) == theirs.match_file(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x" * 257, "longer than"),
        ("a/**/b/**/c/**/d/**", "of `[*][*]`"),
        ("a\n" * 1001, "more than 1000 patterns"),
    ],
)
def test_an_ignore_file_has_bounds(tmp_path: Path, text: str, what: str) -> None:
    write(tmp_path, {"main.py": "", IGNORE_FILE: text})
    with pytest.raises(RefusedError, match=what):
        open_package(tmp_path)
