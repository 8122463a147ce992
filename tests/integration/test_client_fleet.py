"""`hivemind nodes` and `hivemind top` against a server that answers to order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import COMMAND, TOKEN, Shell, run
from tests.support.environment import free_port
from tests.support.scripted_server import Scripted
from tests.support.waiting import wait_until

alice, environment, server = command.alice, command.environment, command.server
stranger = command.stranger

NODE = pb.WorkerNodeInfo(
    node_id="bob/pc", status="ONLINE", trust_tier="high", region="asia", kind="agent", cpu_score=4000,
    capacity_cpu_score=6000, reserved_cpu_score=3000, used_cpu_score=1500, memory_gb=16,
    capacity_memory_mb=16384, reserved_memory_mb=2048, reserved_memory_gb=2, running_tasks=1, max_tasks=8,
    cpu_percent=12.3, memory_percent=45.6, last_heartbeat=1.0, owner="bob", success_rate=0.75,
    relative_speed=1.2, history_weight=9.0, on_probation=True,
)  # fmt: skip
SMALL = pb.WorkerNodeInfo(node_id="ann/pi", status="OFFLINE", trust_tier="low", max_tasks=1, cpu_score=500)


def listed(*nodes: pb.WorkerNodeInfo) -> pb.GetNodeListResponse:
    return pb.GetNodeListResponse(success=True, nodes=nodes)


# -- nodes ------------------------------------------------------------------------------------------


def test_nodes_are_listed_for_people_and_for_machines(server: Scripted, alice: Shell) -> None:
    server.answers("GetNodeList", listed(NODE, SMALL))
    answer = alice("nodes", "--json").answer
    assert [node["node_id"] for node in answer] == ["ann/pi", "bob/pc"]
    assert set(answer[1]) == set(pb.WorkerNodeInfo.DESCRIPTOR.fields_by_name)
    assert (answer[1]["capacity_cpu_score"], answer[1]["used_cpu_score"]) == (6000, 1500)
    assert (answer[1]["kind"], answer[1]["on_probation"], answer[1]["success_rate"]) == ("agent", True, 0.75)
    shown = alice("nodes").out
    for word in (
        *("bob/pc", "ONLINE", "high", "asia", "1/8", "3000/6000, 1500 used", "2/16 GiB", "12 %", "46 %"),
        *("probation 75% 1.20x (9)", "ago", "ann/pi", "OFFLINE", "new", "never"),
    ):
        assert word in shown


def test_a_node_that_is_unfit_is_shown_as_that_with_its_reason(server: Scripted, alice: Shell) -> None:
    full = pb.WorkerNodeInfo(node_id="cy/full", status="ONLINE", unfit="no room on its disk\x1b[1m: 0.1 GiB")
    gone = pb.WorkerNodeInfo(node_id="dee/gone", status="OFFLINE", unfit="of long ago")
    many = [pb.WorkerNodeInfo(node_id=f"n/{n}", status="ONLINE", unfit="away") for n in range(21)]
    server.answers("GetNodeList", listed(NODE, full, gone))
    done = alice("nodes")
    shown = done.out
    rows = {line.split()[0]: line.split()[1] for line in shown.splitlines() if "/" in line}
    assert (rows["bob/pc"], rows["dee/gone"]) == ("ONLINE", "OFFLINE")
    assert next(line for line in shown.splitlines() if line.startswith("cy/full")).split()[1] == "UNFIT"
    assert "cy/full gets no work: no room on its disk" in done.err
    assert "\x1b" not in shown + done.err
    assert "of long ago" not in done.err
    told = {node["node_id"]: node["status"] for node in alice("nodes", "--json").answer}
    assert told["cy/full"] == "ONLINE"
    server.answers("GetNodeList", listed(*many))
    assert "… and 1 more (--json has all)" in alice("nodes").err
    assert alice("top", "--json", "--once").answer["totals"]["unfit"] == 21


def test_an_empty_pool_is_no_error(server: Scripted, alice: Shell) -> None:
    server.answers("GetNodeList", listed())
    assert alice("nodes", "--json").answer == []
    done = alice("nodes")
    assert (done.code, done.out, done.err) == (0, "", "no node has joined the pool yet\n")


def test_a_name_that_the_encoding_lacks_is_shown_as_well_as_it_can_be(
    server: Scripted, environment: dict[str, str]
) -> None:
    server.answers("GetNodeList", listed(pb.WorkerNodeInfo(node_id="bob/電腦", status="ONLINE")))
    for words in (["nodes"], ["top", "--once"]):
        done = run(environment | {"PYTHONIOENCODING": "latin-1"}, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "bob/??" in done.stdout


# -- top without a screen ---------------------------------------------------------------------------


def test_top_once_is_one_look(server: Scripted, alice: Shell) -> None:
    server.answers("GetNodeList", listed(NODE, SMALL))
    done = alice("top", "--once")
    assert (done.code, done.err) == (0, "")
    assert "2 nodes: 1 online, 0 draining, 1 offline   1 of 8 tasks" in done.out
    assert "3,000 of 6,000; 1,500 used" in done.out
    assert done.out.index("bob/pc") < done.out.index("ann/pi")
    by_name = alice("top", "--once", "--sort", "name").out
    assert by_name.index("ann/pi") < by_name.index("bob/pc")
    (answer,) = alice("top", "--once", "--json").lines
    assert (answer["problem"], answer["totals"]["cpu"]) == (
        "",
        {"used": 1500, "reserved": 3000, "capacity": 6000},
    )
    assert [node["node_id"] for node in answer["nodes"]] == ["bob/pc", "ann/pi"]
    assert len(server.asked["GetNodeList"]) == 3


def test_top_of_ten_thousand_nodes_ends(server: Scripted, alice: Shell) -> None:
    many = [
        pb.WorkerNodeInfo(node_id=f"n/{number}", status="ONLINE", max_tasks=1) for number in range(10_000)
    ]
    server.answers("GetNodeList", listed(*many))
    assert len(alice("top", "--once").out.splitlines()) > 10_000
    assert "10,000 nodes: 10,000 online" in alice("top", "--once").out


def test_a_pool_that_was_never_there_ends_top(alice: Shell) -> None:
    ended = alice("--gateway", f"127.0.0.1:{free_port()}", "top", "--json")
    assert (ended.code, ended.error["code"]) == (5, "unreachable")


def test_a_login_that_is_not_good_any_more_ends_top(server: Scripted, alice: Shell) -> None:
    server.answers("GetNodeList", listed(NODE), grpc.StatusCode.UNAUTHENTICATED)
    done = alice("top", "--interval", "0.2", "--json")
    assert done.code == 3
    assert json.loads(done.err)["error"]["code"] == "not_logged_in"


@pytest.fixture
def streaming(server: Scripted, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`top --json` in a process of its own."""
    server.answers("GetNodeList", listed(NODE))
    with subprocess.Popen(
        [*COMMAND, "top", "--json", "--interval", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "HIVEMIND_TOKEN": TOKEN},
        text=True,
    ) as process:
        yield process
        process.kill()


def _next(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_top_in_json_is_an_object_a_look_and_an_interrupt_is_its_end(
    streaming: subprocess.Popen[str], server: Scripted
) -> None:
    assert _next(streaming)["totals"]["online"] == 1
    server.answers("GetNodeList", listed(NODE, SMALL))
    wait_until(lambda: _next(streaming)["totals"]["offline"] == 1, "the other node is seen")
    streaming.send_signal(signal.SIGINT)
    _, err = streaming.communicate(timeout=60)
    assert (streaming.returncode, err) == (0, "")


def test_a_pool_that_is_away_for_a_moment_does_not_end_top(
    streaming: subprocess.Popen[str], server: Scripted
) -> None:
    first = _next(streaming)
    assert first["problem"] == ""
    server.stop()
    away = wait_until(lambda: [look for look in [_next(streaming)] if look["problem"]], "the pool is away")[0]
    assert away["at"] >= first["at"]
    assert [node["node_id"] for node in away["nodes"]] == ["bob/pc"]
    server.start()
    wait_until(lambda: _next(streaming)["problem"] == "", "the pool is back")
    streaming.send_signal(signal.SIGINT)
    streaming.communicate(timeout=60)
    assert streaming.returncode == 0


def test_a_reader_that_leaves_ends_top(streaming: subprocess.Popen[str]) -> None:
    assert _next(streaming)["problem"] == ""
    assert streaming.stdout is not None
    streaming.stdout.close()
    assert streaming.wait(60) == 141
    assert streaming.stderr is not None
    assert streaming.stderr.read() == ""


# -- top on a terminal ------------------------------------------------------------------------------


@dataclass(slots=True)
class Terminal:
    """A terminal with the command on it, and all that it has shown."""

    process: subprocess.Popen[bytes]
    control: int
    text: str = ""

    def read(self) -> None:
        with contextlib.suppress(OSError):  # how a terminal says that nobody is there any more
            while part := os.read(self.control, 65536):
                self.text += part.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self.control, keys)

    def shows(self, words: str) -> None:
        wait_until(lambda: words in self.text, f"the terminal shows {words!r}")

    def forget(self) -> None:
        self.text = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.control, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@pytest.fixture
def terminal(server: Scripted, environment: dict[str, str]) -> Iterator[Terminal]:
    """`top` on a terminal of 100 columns and 12 lines."""
    server.answers("GetNodeList", listed(NODE, SMALL))
    control, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", command.WITH_A_TERMINAL, "top", "--interval", "0.2"],
        stdin=end,
        stdout=end,
        stderr=end,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "HIVEMIND_TOKEN": TOKEN},
        start_new_session=True,
    )
    os.close(end)
    opened = Terminal(process, control)
    reader = threading.Thread(target=opened.read)
    reader.start()
    try:
        yield opened
    finally:
        process.kill()
        process.wait()
        reader.join(30)
        os.close(control)


def test_top_has_a_screen_of_its_own_and_leaves_the_terminal_as_it_was(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.control)
    terminal.shows("\x1b[?1049h")  # the other screen
    terminal.shows("bob/pc")
    terminal.type(b"\x03")
    assert terminal.process.wait(60) == 0
    terminal.shows("\x1b[?1049l")
    terminal.shows("\x1b[?25h")  # the cursor
    assert termios.tcgetattr(terminal.control)[3] & termios.ECHO == before[3] & termios.ECHO
    assert "Traceback" not in terminal.text


def test_keys_sort_and_quit(terminal: Terminal) -> None:
    terminal.shows("by load")
    terminal.type(b"n")
    terminal.shows("by name")
    terminal.type(b"xt")
    terminal.shows("by tier")
    terminal.type(b"q")
    assert terminal.process.wait(60) == 0


def test_a_pool_that_is_away_is_shown_and_seen_again(terminal: Terminal, server: Scripted) -> None:
    terminal.shows("bob/pc")
    server.stop()
    terminal.shows("cannot be reached")
    terminal.forget()
    terminal.shows("bob/pc")  # what was seen last stays
    server.start()
    wait_until(lambda: _last_screen(terminal) and "old:" not in _last_screen(terminal), "the pool is back")
    terminal.type(b"q")
    assert terminal.process.wait(60) == 0


def _last_screen(terminal: Terminal) -> str:
    """What was drawn last as a whole."""
    screens = terminal.text.split("hivemind top")
    return screens[-2] if len(screens) > 2 else ""


def test_more_nodes_than_lines_are_counted_and_a_larger_window_shows_more(
    terminal: Terminal, server: Scripted
) -> None:
    server.answers(
        "GetNodeList", listed(*(pb.WorkerNodeInfo(node_id=f"n/{n}", status="ONLINE") for n in range(5000)))
    )
    terminal.shows("… and 4,997 more")
    terminal.resize(120, 40)
    terminal.shows("… and 4,969 more")
    terminal.type(b"q")
    assert terminal.process.wait(60) == 0
