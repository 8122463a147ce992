"""The tests in several processes, which are forked when all tests are collected: `pytest --forks N`.

Processes of pytest-xdist each load and collect everything by themselves, which takes ten seconds of a
processor in each. Here that is done once. A process asks for groups of tests, one after the other, and tells
reports. What stays together and what begins first is for tests.support.spreading to say.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import selectors
import socket
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psutil
import pytest

from tests.support import forking
from tests.support.processes import MARK, end_all, strays
from tests.support.spreading import group_of
from tests.support.waiting import wait_until

Group = deque[int]
_AT, _REPORT, _WANTS = "at", "report", "wants"
_READ_BYTES = 1 << 16


class Lines:
    """One JSON value a line, both ways."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._begun = b""

    def send(self, value: object) -> None:
        self.channel.sendall(json.dumps(value, default=str).encode() + b"\n")

    def read(self) -> list[Any]:
        """Waits for at least one; none where the other side has ended."""
        values: list[Any] = []
        while not values:
            try:
                data = self.channel.recv(_READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                break
            *whole, self._begun = (self._begun + data).split(b"\n")
            values = [json.loads(line) for line in whole]
        return values


class _OtherGroup:
    """As the next test: what only this group's tests share is taken down, and what the session has stays."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[pytest.Session]:
        return [self._session]


class Child:
    """In a forked process: a session that runs what it is given, and ends as every session does."""

    def __init__(self, session: pytest.Session, lines: Lines, number: int) -> None:
        self._session, self._lines = session, lines
        config = session.config
        # By this other plugins know that another process reports.
        config.workerinput = {"workerid": f"p{number}"}  # type: ignore[attr-defined]
        config.pluginmanager.unregister(name="terminalreporter")
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        if capture.is_globally_capturing():
            # Into files of its own.
            capture.stop_global_capturing()
            capture.start_global_capturing()
        folders: Any = config._tmp_path_factory  # type: ignore[attr-defined]
        folders._basetemp = folders.getbasetemp() / f"p{number}"
        folders._basetemp.mkdir(mode=0o700)
        os.environ[MARK] = secrets.token_hex(8)
        config.pluginmanager.register(self, "forked")

    def run(self) -> None:
        items, session = self._session.items, self._session
        other: Any = _OtherGroup(session)
        while True:
            self._lines.send([_WANTS, None])
            group = next(iter(self._lines.read()), [])
            if not group:
                return
            for index, following in zip(group, [*group[1:], None], strict=True):
                self._lines.send([_AT, index])
                nextitem = other if following is None else items[following]
                session.config.hook.pytest_runtest_protocol(item=items[index], nextitem=nextitem)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        told = config.hook.pytest_report_to_serializable(config=config, report=report)
        self._lines.send([_REPORT, told])


@dataclass
class _Forked:
    """What is known of a process that was forked."""

    number: int
    pid: int
    lines: Lines
    group: Group = field(default_factory=deque)
    current: int | None = None
    has_failed: bool = False


class Forks:
    """A plugin for the process that collects."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._waiting: deque[Group] = deque()
        self._running: dict[int, _Forked] = {}
        self._count = 0
        self._is_child = False
        self._selector = selectors.DefaultSelector()
        self._session: pytest.Session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest says what there is to say
        self._session = session
        self._waiting.extend(groups_of(session.items))
        forking.share()
        # It lives as long as the processes do: nothing of it is looked at again by any of them.
        gc.collect()
        gc.freeze()
        try:
            return self._loop()
        finally:
            if not self._is_child:
                self._end()

    def _loop(self) -> bool:
        while self._running or self._waiting:
            while self._waiting and len(self._running) < self._processes and not self._session.shouldfail:
                if (child := self._fork()) is not None:
                    child.run()
                    return True
            if not self._running:
                break
            for key, _ in self._selector.select():
                self._hear(key.data)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        return True

    def _fork(self) -> Child | None:
        """A Child in the new process; there nothing of the others is left."""
        number, self._count = self._count, self._count + 1
        ours, theirs = socket.socketpair()
        # What is not written yet would be written by both.
        reporter: Any = self._session.config.pluginmanager.getplugin("terminalreporter")
        for writer in (reporter, sys.stdout, sys.stderr):
            writer.flush()
        with warnings.catch_warnings():
            # Numpy's threads, which do nothing.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._is_child = True
            ours.close()
            for forked in self._running.values():
                forked.lines.channel.close()
            self._running.clear()
            self._selector.close()
            forking.leave_shared()
            return Child(self._session, Lines(theirs), number)
        theirs.close()
        forked = self._running[pid] = _Forked(number, pid, Lines(ours))
        self._selector.register(ours, selectors.EVENT_READ, forked)
        return None

    def _hear(self, forked: _Forked) -> None:
        for kind, value in (said := forked.lines.read()):
            self._take(forked, kind, value)
        if not said:
            self._ended(forked)

    def _take(self, forked: _Forked, kind: str, value: Any) -> None:
        if kind == _AT:
            forked.current = value
            forked.group.remove(value)
        elif kind == _REPORT:
            config = self._session.config
            report = config.hook.pytest_report_from_serializable(config=config, data=value)
            forked.has_failed |= report.failed
            config.hook.pytest_runtest_logreport(report=report)
        elif kind == _WANTS:
            forked.current = None
            stops = self._session.shouldfail or not self._waiting
            forked.group = Group() if stops else self._waiting.popleft()
            with contextlib.suppress(ConnectionError):
                forked.lines.send(list(forked.group))

    def _ended(self, forked: _Forked) -> None:
        self._selector.unregister(forked.lines.channel)
        forked.lines.channel.close()
        _, status = os.waitpid(forked.pid, 0)
        del self._running[forked.pid]
        code = os.waitstatus_to_exitcode(status)
        if forked.current is not None and not self._session.shouldfail:
            # The rest of its group is another process's.
            if forked.group:
                self._waiting.appendleft(forked.group)
            item = self._session.items[forked.current]
            self._tell_failed(item.nodeid, item.location, f"the process of this test ended with {code} in it")
        elif code and not forked.has_failed:
            name = f"process {forked.number} of the tests"
            self._tell_failed(name, (name, None, name), f"it ended with {code}; what it said stands above")

    def _tell_failed(self, nodeid: str, location: tuple[str, int | None, str], words: str) -> None:
        report = pytest.TestReport(nodeid, location, {}, "failed", words, "call")
        self._session.config.hook.pytest_runtest_logreport(report=report)

    def _end(self) -> None:
        """Where this was interrupted: a process that nobody hears any more ends by itself with its test."""
        for forked in self._running.values():
            forked.lines.channel.close()
        for pid in self._running:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._running.clear()
        forking.end_shared()
        folder = self._session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]

        def left() -> list[psutil.Process]:
            return strays(os.environ[MARK], folder)

        try:
            wait_until(lambda: not left(), "no process of the tests is left", 30)
        except AssertionError:
            stayed = left()
            names = [f"{process.pid} {process.name()}" for process in stayed if process.is_running()]
            end_all(stayed)
            self._tell_failed(
                "tests", ("tests", None, "tests"), f"processes that outlived the tests: {names}"
            )


def groups_of(items: list[pytest.Item]) -> Iterator[Group]:
    """What stays in one process, in the order of the first of each."""
    found: dict[str, Group] = {}
    for path, members in groupby(range(len(items)), lambda index: items[index].path):
        found.setdefault(group_of(str(path)), Group()).extend(members)
    yield from found.values()
