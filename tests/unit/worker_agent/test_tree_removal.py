"""What a task leaves is removed however it is built: in steps, without depth, and nothing is followed."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from worker_agent import tree_removal
from worker_agent.trash import Trash, remove_tree
from worker_agent.tree_removal import Clearing, clear, give

DEEP = 400


def deep(top: Path, depth: int = DEEP) -> None:
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def bad_tree(top: Path) -> None:
    """As a run leaves it that wants to stay: deep, wide, unreadable, badly named, and with ways out."""
    top.mkdir(parents=True)
    deep(top)
    for number in range(100):
        (top / f"{number}").mkdir()
    (top / "1" / "file").write_text("x")
    Path(os.fsdecode(os.fsencode(top) + b"/bad\xff\n")).write_text("x")
    (top / "out").symlink_to(top.parent)
    os.mkfifo(top / "2" / "pipe")
    (top / "3" / "closed" / "in").mkdir(parents=True)
    for folder in (top / "3" / "closed" / "in", top / "3" / "closed", top / "3"):
        folder.chmod(0)


def test_nothing_stays_and_nothing_else_goes(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    bad_tree(tmp_path / "top")
    assert clear(tmp_path / "top") == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "top"] == ["mine"]
    assert list((tmp_path / "top").iterdir()) == []
    remove_tree(tmp_path / "top")
    remove_tree(tmp_path / "top")
    assert not (tmp_path / "top").exists()


def test_it_goes_in_steps_of_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_tree(tmp_path / "top")
    looks = 0
    real = os.unlink, os.rmdir, os.rename

    def counted(call: int) -> object:
        def run(*arguments: object, **options: object) -> None:
            nonlocal looks
            looks += 1
            real[call](*arguments, **options)  # type: ignore[operator]

        return run

    for call, name in enumerate(("unlink", "rmdir", "rename")):
        monkeypatch.setattr(os, name, counted(call))
    top = os.open(tmp_path / "top", os.O_RDONLY)
    try:
        work = Clearing(top)
        rounds = 1
        while not work.go(100):
            assert not work.problem
            assert looks <= rounds * 202  # a folder takes two: up, and away
            rounds += 1
    finally:
        os.close(top)
    assert rounds > 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_owner_without_rights_to_his_own_folders_removes_them(tmp_path: Path) -> None:
    """As a node whose agent is no superuser."""
    top = tmp_path / "top"
    bad_tree(top)
    subprocess.run(["chown", "-hR", "65534:65534", str(top)], check=True)
    program = Path(tree_removal.__file__).read_text()
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, "."],
        cwd=top,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert list(top.iterdir()) == []


def test_trash_frees_the_place_at_once_and_is_empty_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_agent.trash._STEPS_HERE", 50)  # the rest is a gentle process's
    bad_tree(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "two").mkdir()
    trash = Trash(tmp_path / "trash")
    try:
        for name in ("one", "two", "never there"):
            trash.throw(tmp_path / "runs" / name)
        assert list((tmp_path / "runs").iterdir()) == []
        wait_until(lambda: trash.waiting == 0, "the trash is emptied")
        assert list((tmp_path / "trash").iterdir()) == []
        assert trash.problem() == ""
    finally:
        trash.close()


def test_what_an_earlier_life_left_in_the_trash_goes_at_the_next_start(tmp_path: Path) -> None:
    bad_tree(tmp_path / "trash" / "left")
    trash = Trash(tmp_path / "trash")
    try:
        wait_until(lambda: not list((tmp_path / "trash").iterdir()), "the trash is emptied")
    finally:
        trash.close()


def test_ordinary_folders_do_not_wait_for_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that ends many runs at once is not one whose disk is full."""
    monkeypatch.setattr("worker_agent.trash._STEPS_HERE", 50)
    begun, go_on = threading.Event(), threading.Event()
    real = Trash._remove_apart

    def held(trash: Trash, path: Path) -> str:
        begun.set()
        assert go_on.wait(60)
        return real(trash, path)

    monkeypatch.setattr(Trash, "_remove_apart", held)
    bad_tree(tmp_path / "large")
    trash = Trash(tmp_path / "trash", max_large=1)
    try:
        trash.throw(tmp_path / "large")
        assert begun.wait(60)
        for number in range(40):
            (tmp_path / f"{number}").mkdir()
            trash.throw(tmp_path / f"{number}")
        wait_until(lambda: trash.waiting == 1, "the small ones have gone")
        assert trash.problem() == ""
        go_on.set()
        wait_until(lambda: not list((tmp_path / "trash").iterdir()), "the large one has gone")
    finally:
        go_on.set()
        trash.close()


def test_a_node_whose_trash_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be removed counts: the disk is not free, whatever it seems."""
    monkeypatch.setattr(Clearing, "go", lambda work, _: setattr(work, "problem", "x: Read-only file system"))
    trash = Trash(tmp_path / "trash", max_large=2)
    try:
        for number in range(3):
            (tmp_path / f"{number}").mkdir()
            trash.throw(tmp_path / f"{number}")
        wait_until(lambda: trash.waiting == 0, "each was tried")
        assert "3 earlier runs left on its disk, 3 of which cannot be removed" in trash.problem()
    finally:
        trash.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_file_is_not_given_away_by_a_hard_link(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.write_text("x")
    os.chown(others, 4321, 4321)
    top = tmp_path / "top"
    (top / "in").mkdir(parents=True)
    os.link(others, top / "in/link")
    own = top / "own"
    own.write_text("x")
    os.link(own, top / "in/own")
    give(top, 65534, 65534)
    assert (others.stat().st_uid, own.stat().st_uid, (top / "in").stat().st_uid) == (4321, 65534, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_tree_is_given_to_a_user_however_deep_it_is(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    deep(top, 1100)
    (tmp_path / "mine").write_text("mine")
    (top / "out").symlink_to(tmp_path / "mine")
    (top / "a").mkdir()
    (top / "a" / "b").write_text("x")
    try:
        give(top, 65534, 65534)
        assert (tmp_path / "mine").stat().st_uid == 0
        wrong = subprocess.run(
            ["find", str(top), "!", "-uid", "65534"], capture_output=True, text=True, check=True
        )
        assert wrong.stdout == ""
    finally:
        remove_tree(top)
