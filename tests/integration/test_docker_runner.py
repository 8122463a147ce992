"""The Docker runner with real containers."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support.engine import our_containers
from tests.support.odd_words import (
    ODD_ENVIRONMENT,
    ODD_SECRETS,
    ODD_VARIABLES,
    ODD_WORDS,
    TELL,
    TELLING_PACKAGE,
    told,
)
from tests.support.runs import MIB, RunFactory
from tests.support.waiting import wait_until
from worker_agent.runners.base import RunRefusedError
from worker_agent.runners.docker import DockerRunner, engine_problem

pytestmark = pytest.mark.docker
SLEEPS = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def runs(run_folder: Path, docker_engine: docker.DockerClient, test_image: str) -> Iterator[RunFactory]:
    runner = DockerRunner(f"tester/{run_folder.name}")
    made = RunFactory(runner, run_folder, node_id=f"tester/{run_folder.name}", image=test_image)
    yield made
    made.end_all()
    runner.close()
    ours = [c for c in our_containers(docker_engine) if run_folder.name in str(c.name)]
    assert ours == []


def inspected(engine: docker.DockerClient, attempt_id: str) -> dict[str, object]:
    (container,) = engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"hivemind.attempt={attempt_id}"}
    )
    return dict(container.attrs)


@pytest.mark.parametrize("files", [{"main.py": TELL}, TELLING_PACKAGE], ids=["main.py", "run.sh"])
def test_a_run_is_given_its_arguments_and_environment_exactly(
    runs: RunFactory, files: dict[str, str]
) -> None:
    end, live = runs.run(
        files,
        arguments=ODD_WORDS,
        environment={**ODD_ENVIRONMENT, "TASK_ID": "another"},
        secrets=ODD_SECRETS,
    )
    assert end.exit_code == 0, live.output
    assert told(live.output) == (ODD_WORDS, ODD_VARIABLES)


def test_a_script_runs_in_its_directory_with_its_environment(runs: RunFactory, run_folder: Path) -> None:
    code = """
import json, os
open('made.txt', 'w').write('here')
print(json.dumps([os.getcwd(), dict(os.environ), os.getuid()]))
raise SystemExit(3)
"""
    end, live = runs.script(code, attempt_id=f"{run_folder.name}:2")
    cwd, environment, uid = json.loads(live.output)
    assert (end.exit_code, end.stopped, end.problem) == (3, False, "")
    assert cwd == "/work"
    assert (environment["TASK_ID"], environment["PYTHONUNBUFFERED"]) == (run_folder.name, "1")
    assert uid != 0
    made = live.spec.work_dir / "made.txt"
    assert made.read_text() == "here"
    assert made.stat().st_uid == uid


def test_a_shell_script_is_run_by_sh(runs: RunFactory) -> None:
    end, live = runs.run({"run.sh": "echo hello; echo oops >&2; python3 -c 'print(6*7)'"})
    assert end.exit_code == 0
    assert sorted(live.output.split()) == ["42", "hello", "oops"]


def test_every_limit_of_the_design_is_on_the_container(
    runs: RunFactory, docker_engine: docker.DockerClient
) -> None:
    live = runs.start({"main.py": SLEEPS}, memory_bytes=64 * MIB, cpus=0.5, pids_limit=33)
    live.await_output("up")
    seen = inspected(docker_engine, live.spec.attempt_id)
    live.run.stop()
    live.wait()
    host, config = seen["HostConfig"], seen["Config"]
    assert isinstance(host, dict)
    assert isinstance(config, dict)
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert (host["Memory"], host["MemorySwap"]) == (64 * MIB, 64 * MIB)
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 33
    assert host["Init"] is True
    assert host["Tmpfs"] == {"/tmp": f"rw,exec,nosuid,nodev,size={16 * MIB},mode=1777"}
    assert host["LogConfig"]["Type"] == "none"
    assert host["RestartPolicy"]["Name"] in {"no", ""}
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {
        "fsize": 256 * MIB,
        "nofile": 4096,
        "core": 0,
    }
    assert [(mount["Source"], mount["Destination"]) for mount in seen["Mounts"]] == [  # type: ignore[attr-defined]
        (str(live.spec.work_dir), "/work")
    ]
    assert config["User"].split(":")[0] not in {"", "0"}
    assert config["Labels"]["hivemind.node"] == live.spec.node_id
    assert config["Labels"]["hivemind.workdir_bytes"] == str(256 * MIB)
    assert str(seen["Name"]).startswith("/hivemind-tester-")


def test_a_resize_moves_the_soft_limits_and_leaves_the_hard_ones(
    runs: RunFactory, docker_engine: docker.DockerClient
) -> None:
    grows = """
import os, time
print('up', flush=True)
while not os.path.exists('go'):
    time.sleep(0.05)
held = bytearray(100 << 20)
print('grown', flush=True)
"""
    live = runs.start({"main.py": grows}, memory_bytes=256 * MIB, cpus=1.0)
    live.await_output("up")

    def limits() -> tuple[object, ...]:
        host = inspected(docker_engine, live.spec.attempt_id)["HostConfig"]
        assert isinstance(host, dict)
        return tuple(
            host[name] for name in ("MemoryReservation", "CpuShares", "Memory", "MemorySwap", "NanoCpus")
        )

    hard = (256 * MIB, 256 * MIB, 1_000_000_000)
    assert limits() == (0, 1024, *hard)
    live.run.resize(memory_bytes=32 * MIB, cpus=0.25)
    wait_until(lambda: limits() == (32 * MIB, 256, *hard), "less is kept for the container")
    # It grows into what it asked for before the pool has noticed, and is not ended for it.
    (live.spec.work_dir / "go").touch()
    live.await_output("grown")
    assert live.wait().exit_code == 0


def test_a_resize_of_a_run_that_is_over_does_nothing(runs: RunFactory) -> None:
    end, live = runs.script("pass")
    live.run.resize(memory_bytes=32 * MIB, cpus=0.25)
    assert end.exit_code == 0


def test_the_limits_hold_inside(runs: RunFactory) -> None:
    code = """
import os, socket
for path in '/x /usr/x /etc/x /work/x /tmp/x'.split():
    try:
        open(path, 'w').write('x')
        print('wrote', path)
    except OSError:
        pass
print('interfaces', socket.if_nameindex())
print('docker.sock', os.path.exists('/var/run/docker.sock'))
print(open('/proc/self/status').read())
"""
    _, live = runs.script(code)
    assert [line for line in live.output.splitlines() if line.startswith("wrote")] == [
        "wrote /work/x",
        "wrote /tmp/x",
    ]
    assert "interfaces [(1, 'lo')]" in live.output
    assert "docker.sock False" in live.output
    status = dict(line.split(":", 1) for line in live.output.splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0, name


def test_a_task_killed_by_a_signal_says_which(runs: RunFactory) -> None:
    end, _ = runs.script("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert end.exit_code == -signal.SIGSEGV


def test_too_much_memory_is_named_as_the_reason(runs: RunFactory) -> None:
    end, _ = runs.script("x = b'x' * (400 << 20)", memory_bytes=64 * MIB)
    assert end.problem == "the task used more memory than its 64 MiB"
    assert end.exit_code == -signal.SIGKILL


def test_a_hundred_megabytes_of_output_arrive(runs: RunFactory) -> None:
    end, live = runs.script(
        "import sys\nblock = b'x' * 999_999 + b'\\n'\nfor _ in range(100): sys.stdout.buffer.write(block)"
    )
    assert end.exit_code == 0
    assert live.output_bytes == 100_000_000


def test_a_file_can_grow_to_the_cap_only(runs: RunFactory) -> None:
    code = "f = open('big', 'wb')\nfor _ in range(10 << 10): f.write(bytes(1 << 20))"
    end, live = runs.script(code, max_workdir_bytes=8 * MIB)
    assert end.exit_code != 0
    assert (live.spec.work_dir / "big").stat().st_size <= 8 * MIB


def test_many_files_over_the_cap_end_the_run(runs: RunFactory) -> None:
    code = "import time\nfor n in range(40): open(f'{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(600)"
    end, _ = runs.script(code, max_workdir_bytes=20 * MIB)
    assert end.problem == f"the working directory grew over {20 * MIB} bytes"


def test_a_fork_bomb_is_bounded(runs: RunFactory) -> None:
    code = """
import os, time
made = 0
while made < 2000:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        break
    made += 1
os.write(1, b'made %d.' % made)  # in one piece
time.sleep(600)
"""
    live = runs.start({"main.py": code}, pids_limit=40)
    live.await_output(".")
    assert int(live.output.split("made")[1].rstrip(".")) <= 40
    live.run.stop()
    assert live.wait().stopped


def test_a_task_that_ignores_sigterm_is_over_soon_and_keeps_its_files(runs: RunFactory) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('partial.txt', 'w').write('half')\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    live = runs.start({"main.py": code})
    live.await_output("ready")
    began = time.monotonic()
    live.run.stop()
    live.run.stop()
    end = live.wait()
    assert time.monotonic() - began < 3.0
    assert (end.stopped, end.exit_code, end.problem) == (True, -signal.SIGKILL, "")
    assert (live.spec.work_dir / "partial.txt").read_text() == "half"


def test_a_run_that_takes_too_long_is_ended(runs: RunFactory) -> None:
    end, _ = runs.script("import time; time.sleep(600)", max_run_seconds=1)
    assert end.problem == "the task ran longer than 1 seconds"
    assert not end.stopped


def test_usage_is_measured_while_it_runs(runs: RunFactory) -> None:
    code = "x = bytearray(b'x') * (50 << 20)\nprint('up', flush=True)\nwhile True: pass"
    live = runs.start({"main.py": code})
    wait_until(lambda: live.run.usage().memory_bytes > 50 * MIB, "the memory is seen")
    wait_until(lambda: live.run.usage().cpu_percent > 10, "the CPU is seen")
    live.run.stop()
    end = live.wait()
    assert end.peak_memory_bytes > 50 * MIB
    assert end.cpu_seconds > 0


def test_an_image_that_is_not_there_is_refused_and_never_pulled(runs: RunFactory) -> None:
    with pytest.raises(RunRefusedError, match="image no-such-image:1 is not on this node"):
        runs.script("pass", image="no-such-image:1")


def test_an_image_without_a_shell_fails_with_words_that_say_so(
    runs: RunFactory, docker_engine: docker.DockerClient, run_folder: Path
) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    docker_engine.api.import_image_from_data(
        empty.getvalue(), repository="hivemind-empty", tag=run_folder.name
    )
    image = f"hivemind-empty:{run_folder.name}"
    try:
        end, live = runs.script("pass", image=image)
    finally:
        docker_engine.images.remove(image, force=True)
    assert end.exit_code == 127
    assert "exec sh failed" in live.output


def test_an_engine_that_does_not_answer_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(RunRefusedError, match="no container engine answers"):
        DockerRunner("tester/node")


def test_discarding_removes_the_container(runs: RunFactory, docker_engine: docker.DockerClient) -> None:
    spec = runs.spec({"main.py": ""})
    prepared = runs.runner.prepare(spec)
    filters = {"label": f"hivemind.attempt={spec.attempt_id}"}
    assert len(docker_engine.containers.list(all=True, ignore_removed=True, filters=filters)) == 1
    prepared.discard()
    wait_until(
        lambda: not docker_engine.containers.list(all=True, ignore_removed=True, filters=filters),
        "the container is gone",
    )


def test_reaping_removes_this_nodes_leftovers_but_for_what_is_kept(
    runs: RunFactory, docker_engine: docker.DockerClient, run_folder: Path
) -> None:
    runner = runs.runner
    kept, lost, foreign = (f"{run_folder.name}-{name}:1" for name in ("kept", "lost", "foreign"))
    lives = [runs.start({"main.py": SLEEPS}, attempt_id=attempt) for attempt in (kept, lost)]
    other = DockerRunner(f"other/{run_folder.name}")
    prepared = other.prepare(
        runs.spec({"main.py": ""}, attempt_id=foreign, node_id=f"other/{run_folder.name}")
    )
    assert runner.reap([kept]) == 1
    with pytest.raises(RunRefusedError):
        # Removed under its feet: lost, and somebody else's turn.
        lives[1].wait()
    names = {str(c.labels["hivemind.attempt"]) for c in our_containers(docker_engine)}
    assert {kept, foreign} <= names
    assert lost not in names
    prepared.discard()
    other.close()
    assert runner.reap([]) == 1
    with pytest.raises(RunRefusedError):
        lives[0].wait()


def test_an_attempt_that_comes_again_takes_the_place_of_its_leftover(
    runs: RunFactory, run_folder: Path
) -> None:
    attempt_id = f"{run_folder.name}:1"
    first = runs.runner.prepare(runs.spec({"main.py": ""}, attempt_id=attempt_id))
    end, live = runs.script("print('again')", attempt_id=attempt_id)
    assert (end.exit_code, live.output) == (0, "again\n")
    first.discard()


def test_requirements_that_are_met_are_no_hindrance(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": "print('ran')", "requirements.txt": "# nothing\npip\n"})
    assert (end.exit_code, end.problem, live.output) == (0, "", "ran\n")


def test_requirements_that_are_not_met_without_network_fail_with_the_reason(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": "print('ran')", "requirements.txt": "no-such-package-of-ours==1.0\n"})
    assert end.exit_code == 1
    assert "requirements.txt could not be installed" in end.problem
    assert "network" in end.problem
    assert "ran\n" not in live.output
    assert not live.spec.work_dir.with_name(live.spec.work_dir.name + ".deps").exists()


def test_many_runs_at_once_all_end_well(runs: RunFactory) -> None:
    lives = [runs.start({"main.py": f"print({number})"}) for number in range(6)]
    ends = [live.wait() for live in lives]
    assert [end.exit_code for end in ends] == [0] * 6
    assert [live.output for live in lives] == [f"{number}\n" for number in range(6)]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"OSType": "windows"}, "windows containers"),
        ({"MemoryLimit": True, "PidsLimit": True, "SecurityOptions": ["name=rootless"]}, "rootless"),
        ({"MemoryLimit": False, "PidsLimit": False}, "cannot limit memory and processes"),
        ({"MemoryLimit": True, "PidsLimit": True, "OSType": "linux", "SecurityOptions": None}, ""),
    ],
)
def test_an_engine_that_cannot_hold_tasks_is_told_apart(info: dict[str, object], words: str) -> None:
    problem = engine_problem(info)
    assert (words in problem) if words else (problem == "")
    assert os.linesep not in problem


def test_volumes_of_an_image_are_bounded_and_its_health_check_is_off(
    runs: RunFactory, docker_engine: docker.DockerClient, test_image: str
) -> None:
    """A volume would be a folder on the machine's disk, as large as a task likes."""
    made = docker_engine.containers.create(test_image)
    name = f"hivemind-test-volumes:{os.getpid()}"
    image = made.commit(
        *name.split(":"), changes='VOLUME ["/data", "/tmp", "/work/inner", "/work"]\nHEALTHCHECK CMD true'
    )
    made.remove(v=True)
    before = {volume.id for volume in docker_engine.volumes.list()}
    code = (
        "import os\n"
        "for path in ('/data', '/tmp', '/work/inner'):\n"
        "    there = os.statvfs(path)\n"
        "    open(path + '/file', 'w').close()\n"
        "    print(path, there.f_blocks * there.f_frsize)\n"
        "print('up', flush=True)\n"
        "import time\n"
        "time.sleep(60)\n"
    )
    try:
        live = runs.start({"main.py": code}, image=name, tmpfs_bytes=16 * MIB)
        sizes = live.await_output("up").split()[:-1]
        assert sizes == ["/data", str(16 * MIB), "/tmp", str(16 * MIB), "/work/inner", str(16 * MIB)]
        assert {volume.id for volume in docker_engine.volumes.list()} == before
        state = inspected(docker_engine, live.spec.attempt_id)["State"]
        assert isinstance(state, dict)
        assert "Health" not in state
        live.run.stop()
        live.wait()
    finally:
        image.remove(force=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to give")
def test_what_the_kernel_gives_by_user_one_run_does_not_take_from_another(runs: RunFactory) -> None:
    watches = (
        "import ctypes, time\n"
        "library = ctypes.CDLL(None)\n"
        "taken = 0\n"
        "while taken < 300 and library.inotify_init() >= 0:\n"
        "    taken += 1\n"
        "print('took', taken, flush=True)\n"
    )
    greedy = runs.start({"main.py": watches + "time.sleep(600)\n"})
    greedy.await_output("took")
    end, live = runs.run({"main.py": watches})
    assert end.exit_code == 0
    assert live.output != "took 0\n"
    greedy.run.stop()
    greedy.wait()
