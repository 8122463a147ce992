"""The agent's journal: what is on disk after whatever happened."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nodepool.domain.tasks.states import Outcome
from worker_agent.journal import EndReport, Entry, EntryPhase, Journal, end_of_earlier_life

A = "task_1:2"
CLAIMED = Entry(A, EntryPhase.CLAIMED)
END = EndReport(
    outcome=Outcome.FAILED,
    exit_code=3,
    reason="the task ended with exit code 3",
    output_offset=7,
    output_tail=b"\xff\x00tail",
    result_sha256="ab" * 32,
    result_bytes=4,
    started_at=1.5,
    finished_at=2.5,
    cpu_seconds=0.25,
    peak_memory_bytes=1 << 20,
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_read_by_the_next_life(
    journal: Journal, tmp_path: Path, *, durable: bool
) -> None:
    journal.write(CLAIMED, durable=durable)
    journal.write(Entry("other:1", EntryPhase.ENDED, END), durable=durable)
    assert Journal(tmp_path / "journal").entries() == [Entry("other:1", EntryPhase.ENDED, END), CLAIMED]


def test_a_later_phase_takes_the_place_of_the_earlier(journal: Journal) -> None:
    journal.write(CLAIMED, durable=True)
    journal.write(Entry(A, EntryPhase.RUNNING), durable=False)
    assert journal.entries() == [Entry(A, EntryPhase.RUNNING)]


def test_removing_forgets_the_result_too_and_may_be_repeated(journal: Journal) -> None:
    journal.write(CLAIMED, durable=True)
    journal.result_path(A).write_bytes(b"zip")
    journal.remove(A)
    journal.remove(A)
    assert journal.entries() == []
    assert list(journal.results.iterdir()) == []


def test_attempts_of_a_task_and_of_tasks_with_like_names_are_kept_apart(journal: Journal) -> None:
    ids = ["a:1", "a:11", "a.1:1", "a-1:1", "a_1:1", "A:1"]
    for attempt_id in ids:
        journal.write(Entry(attempt_id, EntryPhase.CLAIMED), durable=False)
    assert sorted(entry.attempt_id for entry in journal.entries()) == sorted(ids)
    assert len({journal.result_path(attempt_id) for attempt_id in ids}) == len(ids)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"attempt_id": "a:1"}',
        b'{"attempt_id": "a:1", "phase": "dreaming"}',
        b'{"attempt_id": "a:1", "phase": "ended"}',
        b'{"attempt_id": "a:1", "phase": "claimed", "end": {}}',
        b'{"attempt_id": "a:1", "phase": "ended", "end": {"output_tail": "", "result_name": "../../x"}}',
        b" " * (2 << 20),
    ],
)
def test_a_file_that_cannot_be_read_is_moved_aside(journal: Journal, tmp_path: Path, content: bytes) -> None:
    journal.write(CLAIMED, durable=True)
    (tmp_path / "journal" / "broken.json").write_bytes(content)
    assert journal.entries() == [CLAIMED]
    assert journal.entries() == [CLAIMED]
    assert (tmp_path / "journal" / "broken.unreadable").exists()


def test_halves_of_files_are_cleared_away_at_the_start(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "journal" / "a.1.json.part").write_bytes(b"{")
    (journal.results / "a.1.zip.part").write_bytes(b"PK")
    again = Journal(tmp_path / "journal")
    assert again.entries() == []
    assert list(again.results.iterdir()) == []


def test_a_disk_that_takes_nothing_leaves_the_earlier_entry(journal: Journal, tmp_path: Path) -> None:
    journal.write(CLAIMED, durable=True)
    part = tmp_path / "journal" / "task_1.2.json.part"
    part.mkdir()
    with pytest.raises(OSError, match=r"directory"):
        journal.write(Entry(A, EntryPhase.RUNNING), durable=False)
    part.rmdir()
    assert journal.entries() == [CLAIMED]


def test_an_end_with_a_result_is_told_when_the_result_is_there(journal: Journal) -> None:
    path = journal.result_path(A)
    entry = Entry(A, EntryPhase.ENDED, EndReport(outcome=Outcome.SUCCEEDED, result_name=path.name))
    assert end_of_earlier_life(entry, journal.results).outcome == Outcome.LOST
    path.write_bytes(b"zip")
    journal.make_durable(entry)
    assert end_of_earlier_life(entry, journal.results) == entry.end


@pytest.mark.parametrize("phase", [EntryPhase.CLAIMED, EntryPhase.RUNNING])
def test_what_had_not_ended_is_lost(journal: Journal, phase: EntryPhase) -> None:
    assert end_of_earlier_life(Entry(A, phase), journal.results).outcome == Outcome.LOST


def test_nobody_else_sees_which_attempts_there_are(journal: Journal, tmp_path: Path) -> None:
    for folder in (tmp_path / "journal", journal.results):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_result_that_no_entry_names_goes_with_the_next_start(journal: Journal, tmp_path: Path) -> None:
    """The agent died between the result and the entry that tells of it."""
    for attempt in (A, "other:1"):
        journal.result_path(attempt).write_bytes(b"a result")
    journal.write(
        Entry(A, EntryPhase.ENDED, replace(END, result_name=journal.result_path(A).name)), durable=True
    )
    again = Journal(tmp_path / "journal")
    assert [entry.attempt_id for entry in again.entries()] == [A]
    assert list(again.results.iterdir()) == [journal.result_path(A)]


def test_what_could_not_be_read_is_kept_for_a_month(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    (folder / "odd.json").write_text("{")
    assert journal.entries() == []
    aside = folder / "odd.unreadable"
    Journal(folder)
    assert aside.exists()
    os.utime(aside, (1.0, 1.0))
    Journal(folder)
    assert not aside.exists()
