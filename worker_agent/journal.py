"""The attempts this node holds, on disk: what is here when the agent starts is what an earlier life left.

One small JSON file an attempt, written whole or not at all. Results lie beside it until the gateway
has acknowledged them. This file decides nothing and talks to nobody.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from nodepool.domain.tasks.states import Outcome
from worker_agent.runners.sandbox import attempt_slug

_SUFFIX = ".json"
_UNREADABLE = ".unreadable"
_UNREADABLE_SECONDS = 30 * 86400.0
MAX_TAIL_BYTES = 256 << 10
_MAX_ENTRY_BYTES = 4 * MAX_TAIL_BYTES


class EntryPhase(StrEnum):
    CLAIMED = "claimed"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndReport:
    """How an attempt ended, as it is told to the gateway. Times are Unix seconds."""

    outcome: str
    exit_code: int = 0
    reason: str = ""
    output_offset: int = 0
    output_tail: bytes = b""
    result_name: str = ""  # file in the journal's results folder; empty when there is no result
    result_sha256: str = ""
    result_bytes: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    reason_code: str = ""  # of a refusal or a loss: one of reason_classes.TOLD_BY_NODES
    run_seconds: float = 0.0  # by the monotonic clock


@dataclass(frozen=True, slots=True)
class Entry:
    attempt_id: str
    phase: EntryPhase
    end: EndReport | None = None


class Journal:
    """Thread-safe as long as each attempt has one thread, which it has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.results = folder / "results"
        # One by one: the mode is not for parents, and the names of attempts are nothing for tasks.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.results.mkdir(exist_ok=True, mode=0o700)
        for leftover in (*folder.glob("*.part"), *self.results.glob("*.part")):
            leftover.unlink(missing_ok=True)
        # Somebody may want to look at it; not for ever.
        for path in folder.glob(f"*{_UNREADABLE}"):
            if time.time() - path.stat().st_mtime > _UNREADABLE_SECONDS:
                path.unlink(missing_ok=True)

    def write(self, entry: Entry, *, durable: bool) -> None:
        """Replace what is known of the attempt.

        Any write outlives the agent's own death. A durable one outlives a power cut too.
        Raises OSError when the disk does not take it.
        """
        path = self._path(entry.attempt_id)
        part = path.with_name(path.name + ".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_encode(entry))
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if durable:
            _sync(self._folder)

    def result_path(self, attempt_id: str) -> Path:
        return self.results / f"{attempt_slug(attempt_id)}.zip"

    def make_durable(self, entry: Entry) -> None:
        """An end that the gateway could not take at once: from here on a power cut does not lose it."""
        if entry.end is not None and entry.end.result_name:
            _sync(self.results / entry.end.result_name)
            _sync(self.results)
        self.write(entry, durable=True)

    def remove(self, attempt_id: str) -> None:
        """Forget the attempt and its result."""
        self._path(attempt_id).unlink(missing_ok=True)
        self.result_path(attempt_id).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What is on disk, for an agent that starts. An unreadable file is moved aside: it must not keep the
        agent from starting. Results that no entry names are of ends that nobody wrote down, and go."""
        found = self._read()
        named = {entry.end.result_name for entry in found if entry.end is not None}
        for path in self.results.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)
        return found

    def _read(self) -> list[Entry]:
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                if path.stat().st_size > _MAX_ENTRY_BYTES:
                    raise ValueError("the file is too large")
                found.append(_decode(path.read_bytes()))
            except (ValueError, KeyError, TypeError):
                path.replace(path.with_suffix(_UNREADABLE))
        return found

    def _path(self, attempt_id: str) -> Path:
        return self._folder / f"{attempt_slug(attempt_id)}{_SUFFIX}"


def end_of_earlier_life(entry: Entry, results: Path) -> EndReport:
    """What is to be told of an attempt that was found on disk when the agent started.

    Nothing of an earlier life runs any more; an end that has lost its result is no end.
    """
    end = entry.end
    if end is not None and (not end.result_name or (results / end.result_name).is_file()):
        return end
    return EndReport(outcome=Outcome.LOST, reason="the node's agent was restarted while it had this attempt")


def _encode(entry: Entry) -> bytes:
    data: dict[str, object] = {"v": 1, "attempt_id": entry.attempt_id, "phase": entry.phase}
    if entry.end is not None:
        # Not asdict(), which copies deeply and slowly.
        end = {field.name: getattr(entry.end, field.name) for field in fields(entry.end)}
        end["output_tail"] = base64.b64encode(entry.end.output_tail[:MAX_TAIL_BYTES]).decode()
        data["end"] = end
    return json.dumps(data).encode()


def _decode(data: bytes) -> Entry:
    raw = json.loads(data)
    end = None
    if "end" in raw:
        values = dict(raw["end"])
        values["output_tail"] = base64.b64decode(values["output_tail"])
        # A name that leaves the folder was not written by us.
        if "/" in values["result_name"]:
            raise ValueError("the result's name is a path")
        end = EndReport(**values)
    phase = EntryPhase(raw["phase"])
    if (phase is EntryPhase.ENDED) != (end is not None):
        raise ValueError("an ended attempt, and only that, has an end")
    return Entry(str(raw["attempt_id"]), phase, end)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Some file systems do not sync folders.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
