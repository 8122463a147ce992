"""`hivemind up` by an ordinary user without bubblewrap and Docker: their tasks run, strangers' do not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import log_in, register
from tests.support.processes import open_folder
from tests.support.spy import ORDINARY_UID, as_ordinary_user, needs_ordinary_user, spy_as
from tests.support.tasks import script
from tests.support.up import Up
from worker_agent.trash import remove_tree

PARTS = ("valkey", "gateway", "dispatcher", "flower", "agent-1")


class OrdinaryUp(Up):
    """The same, run by a user who is not root."""

    agents = 1

    def __init__(self, folder: Path) -> None:
        self.within = as_ordinary_user(bubblewrap=False, folder=folder)
        self.home = folder / "home"
        self.home.mkdir()
        super().__init__(self.home)
        self.outside = folder
        for path in (self.home, self.process.log_path):
            path.touch()
            os.chown(path, ORDINARY_UID, ORDINARY_UID)


@pytest.fixture(scope="module")
def up() -> Iterator[OrdinaryUp]:
    folder = open_folder()
    needs_ordinary_user(folder)
    made = OrdinaryUp(folder)
    try:
        made.start()
        yield made
    finally:
        made.close()
        remove_tree(folder)


def test_it_says_plainly_that_nothing_keeps_tasks_apart_and_whose_run(up: OrdinaryUp) -> None:
    (line,) = (line for line in up.process.log().splitlines() if line.startswith("isolation "))
    assert "none" in line
    assert "only tasks of local run here" in line
    assert "bubblewrap or Docker" in line


def test_ones_own_tasks_run_out_of_the_box_and_a_strangers_wait(up: OrdinaryUp) -> None:
    eve = register(up.stubs(), "eve", "a-long-password")
    foreign = eve.submit(script("print(open('/proc/self/environ').read())"))
    local = log_in(up.stubs(), "local", up.secret("local"))
    own = local.submit(script("print('mine')"))
    up.wait(lambda: local.poll(own).status == "COMPLETED", "the owner's task has ended well")
    up.wait(lambda: "tasks of its owner only" in eve.detail(foreign).reason, "the stranger is told why")
    assert eve.detail(foreign).state == "QUEUED"


def test_another_process_of_the_same_user_can_look_into_no_part(up: OrdinaryUp) -> None:
    files = [*(up.data_dir / "secrets").iterdir(), up.data_dir / "valkey" / "password"]
    found = spy_as(ORDINARY_UID, [path.read_text().strip() for path in files], [], up.outside)
    assert found.of([up.process.pid, *(up.pid(part) for part in PARTS)]) == {}
    assert [place for place in found.seen if "/proc/" in place] == []


def test_what_it_keeps_is_for_its_user_alone(up: OrdinaryUp) -> None:
    found = {
        str(path.relative_to(up.data_dir)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in up.data_dir.rglob("*")
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    }
    inside = {name: mode for name, mode in found.items() if not name.startswith("agents/")}
    assert inside == {}
    assert stat.S_IMODE((up.data_dir / "agents").stat().st_mode) & 0o066 == 0
