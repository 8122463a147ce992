"""The supervisor with real processes: restarts, order of stopping, leftovers, its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local_pool.leftover_processes import ProcessId, birth_of, end_leftovers, read_pid_file, write_pid_file
from local_pool.part_signs import PartSigns
from local_pool.supervisor import PoolPart, StopRequestedError, Supervisor
from nodepool.watchdog import Watchdog
from tests.support.environment import ROOT
from tests.support.waiting import wait_until

# Says its name when it ends in good order.
POLITE = """
import signal, sys, time
def end(*_):
    with open("{order}", "a") as file:
        file.write("{name}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    time.sleep(60)
"""


class Stage:
    """A supervisor with dummy parts in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor = Supervisor(folder, self.said.append)
        self.order = folder / "order"

    def part(self, name: str, script: str, *, stage: int = 1, stop_seconds: float = 20.0) -> PoolPart:
        code = script.replace("{order}", str(self.order)).replace("{name}", name)
        return PoolPart(
            name=name,
            argv=(sys.executable, "-c", code),
            env=dict(os.environ),
            stage=stage,
            stop_seconds=stop_seconds,
        )

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()

    def wait_up(self, name: str, times: int = 1) -> None:
        self.supervisor.wait_for(lambda: self.log(name).count("up\n") >= times, f"{name} is up")

    def told(self) -> str:
        return "\n".join(self.said)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.supervisor.request_stop()
    made.supervisor.request_stop()
    made.supervisor.stop_all()


def test_a_part_that_dies_is_started_again_and_its_last_words_are_shown(stage: Stage) -> None:
    stage.supervisor.start(stage.part("worker", POLITE))
    stage.wait_up("worker")
    first = stage.supervisor.pid("worker")
    os.kill(first, signal.SIGKILL)
    stage.wait_up("worker", times=2)
    assert stage.supervisor.pid("worker") != first
    assert "worker was ended by SIGKILL" in stage.told()
    assert "  worker | up" in stage.told()
    assert "worker started again" in stage.told()


def test_a_part_that_never_comes_up_is_tried_on_and_on(stage: Stage) -> None:
    stage.supervisor.start(stage.part("broken", "import sys; sys.exit('no such database')"))
    stage.supervisor.wait_for(lambda: stage.told().count("broken ended with exit code 1") >= 3, "three tries")
    assert stage.told().count("  broken | no such database") >= 3
    assert "again in 0.5 s" in stage.told()
    assert "again in 1 s" in stage.told()


def test_stages_stop_from_the_highest_to_the_lowest(stage: Stage) -> None:
    for number, name in enumerate(("broker", "gateway", "agent")):
        stage.supervisor.start(stage.part(name, POLITE, stage=number))
        stage.wait_up(name)
    assert stage.supervisor.stop_all()
    assert stage.order.read_text().split() == ["agent", "gateway", "broker"]
    assert not list((stage.folder / "run").glob("*.pid"))


def test_a_part_that_ignores_the_request_is_killed_after_its_time(stage: Stage) -> None:
    stage.supervisor.start(stage.part("stubborn", STUBBORN, stop_seconds=0.1))
    stage.wait_up("stubborn")
    pid = stage.supervisor.pid("stubborn")
    assert not stage.supervisor.stop_all()
    assert "stubborn did not stop in time" in stage.told()
    assert birth_of(pid) == ""


def test_a_second_request_to_stop_waits_for_nobody(stage: Stage) -> None:
    stage.supervisor.start(stage.part("stubborn", STUBBORN, stop_seconds=3600))
    stage.wait_up("stubborn")
    stage.supervisor.request_stop()
    with pytest.raises(StopRequestedError):
        stage.supervisor.tick()
    stage.supervisor.request_stop()
    assert not stage.supervisor.stop_all()


def test_a_part_waiting_to_be_started_again_stays_down_when_all_stops(stage: Stage) -> None:
    stage.supervisor.start(stage.part("broken", "raise SystemExit(7)"))
    stage.supervisor.wait_for(lambda: "exit code 7" in stage.told(), "it died")
    assert stage.supervisor.stop_all()
    assert not stage.supervisor.is_running("broken")


def test_a_flood_of_output_is_bounded_on_disk(stage: Stage) -> None:
    flood = "print('up', flush=True)\nwhile True: print('x' * 65536, flush=True)"
    stage.supervisor.start(stage.part("chatty", flood))
    logs = stage.folder / "logs"
    stage.supervisor.wait_for((logs / "chatty.log.2").exists, "the log went round")
    stage.supervisor.stop_all()
    assert len(list(logs.iterdir())) == 3


def test_parts_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    script = f"""
        import os, sys, time
        from pathlib import Path
        from local_pool.supervisor import PoolPart, Supervisor
        supervisor = Supervisor(Path({str(tmp_path)!r}), print)
        supervisor.start(PoolPart(name="part", argv=(sys.executable, "-c", "import time; time.sleep(3600)"),
                              env=dict(os.environ), stage=1, stop_seconds=5))
        print(supervisor.pid("part"), flush=True)
        supervisor.run()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        # Killed before the part has become itself, it would be gone for another reason.
        wait_until(lambda: "sleep" in " ".join(psutil.Process(pid).cmdline()[2:3]), "the part runs")
        process.kill()
    wait_until(lambda: birth_of(pid) == "", "the part has ended")


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


@pytest.fixture
def started() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        made.append(sleeper())
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


def test_leftovers_of_an_earlier_life_are_ended(
    stage: Stage, started: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = started()
    write_pid_file(stage.folder / "run" / "gateway.pid", process.pid)
    stage.supervisor.end_leftovers()
    assert process.wait(60) == -signal.SIGTERM
    assert stage.said == ["ended gateway, left over from an earlier run"]
    assert not list((stage.folder / "run").glob("*.pid"))


def test_a_process_that_only_has_the_same_number_is_left_alone(
    tmp_path: Path, started: Callable[[], subprocess.Popen[bytes]]
) -> None:
    stranger = started()
    path = tmp_path / "gateway.pid"
    write_pid_file(path, stranger.pid)
    path.write_text(path.read_text().replace(birth_of(stranger.pid), "another boot:12345"))
    assert end_leftovers([path], grace_seconds=1) == []
    assert stranger.poll() is None
    assert not path.exists()


def test_a_leftover_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_pid_file(tmp_path / "agent.pid", process.pid)
        # Nobody waits for it here until it is dead, and a dead child that nobody waited for counts as ended.
        assert end_leftovers([tmp_path / "agent.pid"], grace_seconds=0.1) == ["agent"]
        assert process.wait(60) == -signal.SIGKILL


def test_a_torn_pid_file_is_no_process(tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"pid": "x", "birth": ""}', "null"):
        (tmp_path / "x.pid").write_text(content)
        assert read_pid_file(tmp_path / "x.pid") is None
    assert read_pid_file(tmp_path / "none.pid") is None


def test_a_process_is_alive_as_itself_only(started: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = started()
    assert ProcessId(process.pid, birth_of(process.pid)).is_alive
    assert not ProcessId(process.pid, "other").is_alive
    process.kill()
    wait_until(lambda: birth_of(process.pid) == "", "a zombie is dead")


# Says that it works until the file `hang` is there; with {ready} false it is slow to start for ever.
WATCHED = """
import os, pathlib, time
from nodepool.watchdog import Watchdog
watchdog = Watchdog.of(os.environ)
if {ready}:
    watchdog.ready()
print("up", flush=True)
while True:
    if {ready} and not pathlib.Path("{order}").exists():
        watchdog.alive()
    time.sleep(0.05)
"""


def watched(stage: Stage, *, ready: bool = True, silent_seconds: float = 1.0) -> PoolPart:
    part = stage.part("gateway", WATCHED.replace("{ready}", str(ready)))
    return replace(part, silent_seconds=silent_seconds, env={**part.env, "PYTHONPATH": str(ROOT)})


def test_a_part_that_is_stopped_in_its_tracks_is_killed_and_started_again(stage: Stage) -> None:
    stage.supervisor.start(watched(stage))
    stage.wait_up("gateway")
    first = stage.supervisor.pid("gateway")
    os.kill(first, signal.SIGSTOP)
    stage.wait_up("gateway", times=2)
    assert stage.supervisor.pid("gateway") != first
    assert "gateway hangs: it has said nothing for" in stage.told()
    assert "gateway was ended by SIGKILL" in stage.told()


def test_a_part_that_runs_and_does_not_get_anywhere_is_started_again(stage: Stage) -> None:
    stage.supervisor.start(watched(stage))
    stage.wait_up("gateway")
    stage.order.touch()
    stage.wait_up("gateway", times=2)
    assert "gateway hangs" in stage.told()


def test_a_part_that_is_slow_to_start_is_left_alone(stage: Stage) -> None:
    stage.supervisor.start(watched(stage, ready=False, silent_seconds=0.2))
    stage.wait_up("gateway")
    began = time.monotonic()
    stage.supervisor.wait_for(lambda: time.monotonic() - began > 1.0, "five times its patience is over")
    assert stage.supervisor.is_running("gateway")
    assert stage.told() == ""


def test_a_part_that_hangs_again_and_again_is_left_for_somebody_to_look_at(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_pool.supervisor.MOST_HANGS", 1)
    stage.order.touch()  # it hangs as soon as it is ready
    stage.supervisor.start(watched(stage, silent_seconds=0.3))
    stage.supervisor.wait_for(lambda: "is left alone" in stage.told(), "it is left alone")
    assert stage.told().count("gateway hangs: ") == 1
    assert stage.supervisor.is_running("gateway")


# Says nothing by itself; answers by a file that is there for as long as it turns.
ASKED = """
import pathlib, time
print("up", flush=True)
while True:
    pathlib.Path("{order}").touch()
    time.sleep(0.05)
"""


def test_a_part_that_says_nothing_by_itself_is_asked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_pool.part_probes._PERIOD_SECONDS", 0.1)

    def answers() -> bool:
        stage.order.unlink(missing_ok=True)
        return bool(wait_until(stage.order.exists, "it answers", 0.5))

    part = replace(stage.part("valkey", ASKED), silent_seconds=1.5, answers=answers)
    stage.supervisor.start(part)
    stage.wait_up("valkey")
    first = stage.supervisor.pid("valkey")
    began = time.monotonic()
    stage.supervisor.wait_for(lambda: time.monotonic() - began > 3.0, "twice its patience is over")
    assert stage.supervisor.pid("valkey") == first
    os.kill(first, signal.SIGSTOP)
    stage.wait_up("valkey", times=2)
    assert "valkey hangs: it has said nothing for" in stage.told()


def test_a_part_that_has_not_answered_yet_is_left_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_pool.part_probes._PERIOD_SECONDS", 0.05)
    stage.supervisor.start(replace(stage.part("valkey", STUBBORN), silent_seconds=0.2, answers=lambda: False))
    began = time.monotonic()
    stage.supervisor.wait_for(lambda: time.monotonic() - began > 1.0, "five times its patience is over")
    assert stage.supervisor.is_running("valkey")
    assert stage.told() == ""


def test_a_part_that_says_that_another_has_its_place_is_not_started_again(stage: Stage) -> None:
    part = replace(stage.part("agent-1", "raise SystemExit(3)"), final_codes=frozenset({3}))
    stage.supervisor.start(part)
    stage.supervisor.wait_for(lambda: "is not started again" in stage.told(), "it is let be")
    for _ in range(3):
        stage.supervisor.tick()
    assert not stage.supervisor.is_running("agent-1")
    assert stage.said == ["agent-1 ended with exit code 3, and is not started again: see its log"]


def test_a_supervisor_that_was_stopped_itself_blames_nobody(tmp_path: Path) -> None:
    now = [100.0]
    signs = PartSigns(tmp_path, lambda: now[0])
    watchdog = Watchdog(signs.address)
    watchdog.ready()
    signs.read()
    now[0] += 1.5
    signs.read()
    assert signs.silent_seconds(os.getpid()) == pytest.approx(1.5)
    now[0] += 1000.0
    signs.read()
    assert signs.silent_seconds(os.getpid()) == 0.0
    watchdog.close()
    signs.close()


def test_nobody_speaks_for_another_process_and_a_flood_harms_nobody(tmp_path: Path) -> None:
    signs = PartSigns(tmp_path, time.monotonic)
    environment = {"NOTIFY_SOCKET": signs.address}
    watchdog = Watchdog.of(environment)
    assert environment == {}, "what it starts must not speak for it"
    for _ in range(5000):  # far more than the socket takes
        watchdog.alive()
    signs.read()
    assert signs.silent_seconds(os.getpid()) == 0.0, "not ready yet"
    assert signs.silent_seconds(os.getppid()) == 0.0
    watchdog.close()
    signs.close()


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    signs = PartSigns(folder, time.monotonic)
    place = Path(signs.address)
    assert len(signs.address) < 100
    assert place.parent.stat().st_mode & 0o077 == 0
    signs.close()
    assert not place.parent.exists()
