"""One line an event, harmless and bounded, as JSON and as text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from nodepool.domain.limit_names import LimitName
from nodepool.events import telling
from nodepool.events.catalogue import AdminActed, Event, LimitHit, LinesLeftOut, LoginRefused, RefusalCause
from nodepool.events.outages import OutageTeller
from nodepool.events.telling import MOST_CHARACTERS, MOST_LINES, MOST_LINES_OF_ONE, FloodGate, tell
from nodepool.metrics import catalogue as metrics
from nodepool.observability import set_up_logging
from tests.support.log_lines import restored_logging
from tests.support.waiting import wait_until

# The most that a name could try: a line of its own, a colour, a field, a right-to-left mark, a quote.
HOSTILE = 'x\naction=admin.act admin=root\r\x1b[31m"\'\u202e\u2028\x00{"level": "error"}'


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with restored_logging():
        yield


def act(subject: str) -> AdminActed:
    return AdminActed(admin="root", act="block", subject=subject, detail="{}")


def refused(address: str) -> LoginRefused:
    return LoginRefused(user="", address=address, cause=RefusalCause.WRONG)


def test_a_line_is_one_json_object_whatever_a_name_is(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", as_json=True)
    tell(act(HOSTILE))
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["action"], told["admin"], told["level"]) == ("admin.act", "root", "info")
    assert told["subject"].isprintable()
    assert told["subject"].startswith("x action=admin.act admin=root")


def test_a_command_that_keeps_no_log_has_its_stdout_for_itself() -> None:
    probe = (
        "from nodepool.events.catalogue import AdminActed\n"
        "from nodepool.events.telling import tell\n"
        "tell(AdminActed(admin='root', act='block', subject='bob', detail='{}'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_line_of_text_is_one_line_and_has_no_field_of_a_names_making(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("INFO", as_json=False)
    tell(act(HOSTILE))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    # What has a blank or an equals sign in it is in quotes.
    assert line.count(" action=") == line.split("subject=")[0].count(" action=") + 1
    assert "subject='x action=admin.act" in line or 'subject="x action=admin.act' in line


def test_a_value_has_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", as_json=True)
    tell(act("y" * 10_000))
    assert json.loads(capsys.readouterr().err)["subject"] == "y" * MOST_CHARACTERS


def test_a_flood_writes_a_bounded_number_of_lines_and_says_how_many_it_left_out() -> None:
    written: list[Event] = []
    now = [0.0]
    gate = FloodGate("login.refused", written.append, lambda: now[0])
    for _ in range(1000):
        gate.say(refused("10.0.0.1"))
    assert len(written) == MOST_LINES_OF_ONE
    for number in range(1000):
        gate.say(refused(f"10.1.{number}"))
    assert len(written) == MOST_LINES
    now[0] = 61.0
    gate.say(refused("10.0.0.2"))
    assert written[-2] == LinesLeftOut(of="login.refused", lines=2000 - MOST_LINES)
    assert written[-1] == refused("10.0.0.2")
    gate.flush()
    assert len(written) == MOST_LINES + 2


def test_what_was_left_out_is_said_when_nothing_follows() -> None:
    written: list[Event] = []
    gate = FloodGate("login.refused", written.append, window_seconds=0.2)
    for _ in range(MOST_LINES_OF_ONE + 5):
        gate.say(refused("10.0.0.1"))

    def told() -> int:
        return sum(it.lines if isinstance(it, LinesLeftOut) else 1 for it in list(written))

    wait_until(lambda: told() == MOST_LINES_OF_ONE + 5, "what was left out is said")
    assert any(isinstance(it, LinesLeftOut) for it in written)


def test_what_is_not_written_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_gates", {})
    counter = metrics.limits_hit.labels(LimitName.OPEN_CALLS)
    before = counter._value.get()
    with structlog.testing.capture_logs() as lines:
        for _ in range(50):
            tell(LimitHit(limit=LimitName.OPEN_CALLS, user="eve", address="10.0.0.9", method="GetBalance"))
        telling.flush()
    assert counter._value.get() - before == 50
    assert [it["action"] for it in lines] == ["limit.hit"] * MOST_LINES_OF_ONE + ["lines.left_out"]
    assert lines[-1]["lines"] == 50 - MOST_LINES_OF_ONE


def test_an_outage_is_told_when_it_begins_and_when_it_ends() -> None:
    teller = OutageTeller("gateway")
    with structlog.testing.capture_logs() as lines:
        teller.see({"broker": "", "database": ""}, 1.0)
        for now in (2.0, 3.0):
            teller.see({"broker": "it is away", "database": ""}, now)
        teller.see({"broker": "it is full", "database": "locked"}, 4.0)
        teller.see({}, 7.5)
    told = [(it["action"], it["part"], it["cause"], it.get("seconds")) for it in lines]
    assert told == [
        ("outage.began", "broker", "it is away", None),
        ("outage.began", "database", "locked", None),
        ("outage.ended", "broker", "it is away", 5.5),
        ("outage.ended", "database", "locked", 3.5),
    ]
