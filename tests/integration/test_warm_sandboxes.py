"""Containers that are kept warm: a task in one is as in its own, and finds nothing of another."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from tests.support.engine import our_containers
from tests.support.environment import ROOT
from tests.support.processes import run_name
from tests.support.runs import MIB, LiveRun, RunFactory
from tests.support.waiting import wait_until
from tests.support.warm_tasks import DOUBTS, ENDINGS, FACTS, FOUND, LEAVINGS, SHELL_FACTS
from worker_agent.runners.base import RunEnd, SandboxReuse, exit_code_of_shell
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.warm_pool import WarmOptions
from worker_agent.runners.warm_rules import SandboxLimits

pytestmark = pytest.mark.docker
ANN, BOB = SandboxReuse("ann", 1000, 600.0), SandboxReuse("bob", 1000, 600.0)
LIMITS = SandboxLimits(128 * MIB, 1.0)
OTHER = "other = 1\n"
_TRIES = 5


def container_of(live: LiveRun) -> str:
    return str(live.run._container)  # type: ignore[attr-defined]


class Warm:
    """Runs in warm sandboxes of one runner, and the same in containers of their own."""

    def __init__(self, folder: Path, image: str, sandboxes: int = 1) -> None:
        node = f"tester/{folder.name}"
        self.runner = DockerRunner(node, WarmOptions(folder / "warm", sandboxes))
        self.plain = DockerRunner(f"{node}-plain")
        common = {"node_id": node, "image": image, "memory_bytes": LIMITS.memory_bytes}
        self.runs = RunFactory(self.runner, folder, **common)
        apart = folder / "plain"
        apart.mkdir()
        self.others = RunFactory(self.plain, apart, **{**common, "node_id": f"{node}-plain"})

    def ready(self, owner: str | None = None) -> None:
        """A sandbox waits: one that this owner has used, or any."""
        wait_until(
            lambda: [use for use in self.runner.waiting if owner is None or use.owner == owner],
            f"a sandbox of {owner} waits",
        )

    def unused(self) -> None:
        """A sandbox waits in which nothing has run."""
        self.ready()
        if not any(not use.owner for use in self.runner.waiting):
            self.runs.start({"main.py": "pass"}).wait()  # there is no place for one until it is asked for
        self.ready("")

    def run(self, files: dict[str, str] | str, **changes: object) -> tuple[RunEnd, LiveRun]:
        """In a warm sandbox for certain."""
        again = changes.get("again", ANN)
        owner = again.owner if isinstance(again, SandboxReuse) else ""
        self.ready()
        if not any(use.owner in {"", owner} and use.limits == LIMITS for use in self.runner.waiting):
            self.unused()
        named = {"main.py": files} if isinstance(files, str) else files
        live = self.runs.start(named, **{"again": ANN, **changes})
        assert type(live.run._task).__name__ == "WarmTask"  # type: ignore[attr-defined]
        return live.wait(), live

    def in_one(self, *codes: str, **changes: object) -> list[LiveRun]:
        """One after the other in one sandbox. In doubt it may be thrown away at any time: then once more."""
        for _ in range(_TRIES):
            lives = []
            for code in codes:
                end, live = self.run(code, **changes)
                assert end.exit_code in {0, -signal.SIGKILL}, live.output
                assert "Traceback" not in live.output, live.output
                lives.append(live)
            if len({container_of(live) for live in lives}) == 1:
                return lives
        raise AssertionError(f"{_TRIES} times in a row another sandbox: something is taken for left")

    def where(self, **changes: object) -> str:
        """In which sandbox a task ran."""
        end, live = self.run("pass", **changes)
        assert end.exit_code == 0, live.output
        return container_of(live)

    def close(self) -> None:
        for factory in (self.runs, self.others):
            factory.end_all()
            factory.runner.close()


@pytest.fixture(scope="module")
def warm(docker_engine: docker.DockerClient, test_image: str) -> Iterator[Warm]:
    # Not pytest's: its folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix=f"hm-warm-{run_name()}-"))
    folder.chmod(0o755)
    made = Warm(folder, test_image)
    # Something has to run first, for the runner to know what is usual.
    made.runs.script("pass")
    yield made
    made.close()
    assert not (folder / "warm").exists()
    shutil.rmtree(folder)
    assert [c for c in our_containers(docker_engine) if folder.name in str(c.name)] == []


def facts_of(output: str) -> dict[str, object]:
    found = json.loads(output)
    assert isinstance(found, dict)
    return found


def test_a_task_begins_in_a_warm_sandbox_as_in_its_own(warm: Warm) -> None:
    given = {"arguments": ("a b", "", "ü"), "environment": {"ODD": "1\n2", "HOME": "/elsewhere"}}
    _, own = warm.others.run({"main.py": FACTS, "other.py": OTHER}, **given)
    expected = facts_of(own.output)
    # The one that the engine puts before a task.
    expected["mounts"].remove("/usr/sbin/docker-init ro")  # type: ignore[attr-defined]
    for _ in range(2):  # begun ahead, and used again
        warm.ready()
        _, live = warm.run({"main.py": FACTS, "other.py": OTHER}, **given)
        found = facts_of(live.output)
        expected["environment"]["TASK_ID"] = live.spec.task_id  # type: ignore[index]
        expected["groups"] = found["groups"]
        differ = {name: (value, expected[name]) for name, value in found.items() if value != expected[name]}
        assert not differ, json.dumps(differ, indent=1)


def test_a_shell_script_begins_as_in_its_own(warm: Warm) -> None:
    given = {"arguments": ("a b", ""), "environment": {"PATH": "/usr/bin:/bin", "ODD": "x"}}
    _, own = warm.others.run({"run.sh": SHELL_FACTS}, **given)
    _, live = warm.run({"run.sh": SHELL_FACTS}, **given)
    assert live.output.replace(live.spec.task_id, "ID") == own.output.replace(own.spec.task_id, "ID")


@pytest.mark.parametrize("variables", [{"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "2"}, {"TZ": "Asia/Taipei"}])
def test_what_an_interpreter_reads_at_its_start_begins_another(warm: Warm, variables: dict[str, str]) -> None:
    code = (
        "import sys, time; print(sys.flags, hash('x'), time.tzname, __doc__)\nassert sys.flags.optimize == 0"
    )
    _, own = warm.others.run({"main.py": code}, environment=variables)
    end, live = warm.run(code, environment=variables)
    if "TZ" in variables:
        own_words, words = (
            own.output.partition(") ")[2].split(None, 1)[1],
            live.output.partition(") ")[2].split(None, 1)[1],
        )
        assert words == own_words
    else:
        assert live.output == own.output
    assert end.exit_code == 0


def test_every_end_is_told_and_shown_as_in_its_own(warm: Warm) -> None:
    # All in one container, each by an interpreter that is started for it.
    own = {f"{number}/main.py": code for number, code in enumerate(ENDINGS.values())}
    each = "cp $n/main.py main.py; (exec python main.py >$n/shown 2>&1); echo $? >$n/code"
    script = f"for n in $(seq 0 {len(own) - 1}); do {each}; done"
    end, live = warm.others.run({"run.sh": script, "other.py": OTHER, **own})
    assert end.exit_code == 0, live.output
    for number, (name, code) in enumerate(ENDINGS.items()):
        folder = live.spec.work_dir / str(number)
        shown, told = (folder / "shown").read_text(), int((folder / "code").read_text())
        end, warmed = warm.run({"main.py": code, "other.py": OTHER})
        expected = (exit_code_of_shell(told), "", False)
        assert (end.exit_code, end.problem, end.stopped) == expected, (name, warmed.output)
        if name == "what is done at the end":  # two threads at once
            assert sorted(warmed.output) == sorted(shown)
        else:
            assert warmed.output == shown, name


@pytest.mark.parametrize("name", LEAVINGS)
def test_what_a_task_leaves_the_next_one_does_not_find(warm: Warm, name: str) -> None:
    clean, _, after = warm.in_one(FOUND, LEAVINGS[name], FOUND)
    expected, found = facts_of(clean.output), facts_of(after.output)
    for facts in (expected, found):
        facts["environment"].pop("TASK_ID")  # type: ignore[attr-defined]
    assert found == expected


@pytest.mark.parametrize("name", DOUBTS)
def test_a_sandbox_in_doubt_is_thrown_away(warm: Warm, name: str) -> None:
    end, live = warm.run(DOUBTS[name])
    assert end.exit_code == 0, live.output
    assert warm.where() != container_of(live)


def test_files_come_out_as_they_were_made(warm: Warm) -> None:
    warm.ready()
    for text in ("one", "two"):
        end, live = warm.run(
            {
                "main.py": "import os\nos.makedirs('a/b')\n"
                "open('a/b/made', 'w').write(open('given').read())\n"
                "os.chmod('a/b/made', 0o640)\nos.symlink('made', 'a/b/link')\nopen('.hidden', 'w').close()",
                "given": text,
            }
        )
        assert end.exit_code == 0, live.output
        folder = live.spec.work_dir
        assert sorted(path.name for path in folder.iterdir()) == [".hidden", "a", "given", "main.py"]
        assert (folder / "a/b/made").read_text() == text
        assert (folder / "a/b/made").stat().st_mode & 0o777 == 0o640
        assert (folder / "a/b/link").readlink() == Path("made")
        warm.ready()


def test_nobody_else_and_no_secret_meets_a_used_sandbox(warm: Warm) -> None:
    first = container_of(warm.in_one("pass", "pass")[0])
    warm.ready()
    # Another owner's, one that asks for a sandbox of its own, and one with secrets: each a new one.
    seen = {first}
    for changes in ({"again": BOB}, {"again": None}, {"secrets": {"TOKEN": "x"}}, {"cpus": 0.5}):
        live = warm.runs.start({"main.py": "pass"}, **{"again": ANN, **changes})
        assert live.wait().exit_code == 0
        assert container_of(live) not in seen
        seen.add(container_of(live))
    # Bob's next task does not meet what was Ann's either.
    wait_until(lambda: warm.runner.waiting, "a sandbox waits")
    live = warm.runs.start({"main.py": "pass"}, again=BOB, cpus=0.25)
    live.wait()
    assert container_of(live) not in seen


def test_after_so_many_tasks_and_so_much_waiting_it_is_not_used_again(warm: Warm) -> None:
    twice = replace(ANN, owner="carl", most_tasks=2)
    pair = warm.in_one("pass", "pass", again=twice)
    assert warm.where(again=twice) != container_of(pair[0])
    warm.unused()
    idle = replace(ANN, owner="dora", idle_seconds=0.0)
    first = warm.where(again=idle)
    warm.unused()
    assert warm.where(again=idle) != first


def test_secrets_and_what_a_task_is_given_are_in_no_inspect(
    warm: Warm, docker_engine: docker.DockerClient
) -> None:
    warm.unused()
    code = "import os, sys, time\nprint(os.environ['TOKEN'], sys.argv[1], flush=True)\ntime.sleep(600)"
    live = warm.runs.start(
        {"main.py": code}, again=ANN, secrets={"TOKEN": "hidden-a"}, arguments=("hidden-b",),
        environment={"NAME": "hidden-c"},
    )  # fmt: skip
    live.await_output("hidden-a hidden-b")
    inspected = [json.dumps(container.attrs) for container in our_containers(docker_engine)]
    assert len(inspected) >= 1
    assert "hidden-" not in "".join(inspected)
    live.run.stop()
    assert live.wait().stopped


def test_limits_are_set_anew_before_a_task_begins(warm: Warm, docker_engine: docker.DockerClient) -> None:
    warm.unused()
    code = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    live = warm.runs.start({"main.py": code}, memory_bytes=64 * MIB, cpus=0.5)
    live.await_output("up")
    (host,) = [
        container.attrs["HostConfig"]
        for container in our_containers(docker_engine)
        if container.id == container_of(live)
    ]
    live.run.stop()
    live.wait()
    assert host["Memory"] == host["MemorySwap"] == 72 * MIB  # with that of its first process
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.5
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (host["ReadonlyRootfs"], host["NetworkMode"], host["PidsLimit"]) == (True, "none", 64)


def test_memory_time_and_a_stop_are_told_as_ever(warm: Warm) -> None:
    end, live = warm.run("x = b'x' * (400 << 20)")
    assert (end.problem, end.exit_code) == ("the task used more memory than its 128 MiB", -signal.SIGKILL)
    warm.unused()
    end, _ = warm.run("import time; time.sleep(600)", max_run_seconds=1)
    assert end.problem == "the task ran longer than 1 seconds"
    warm.unused()
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit('asked'))\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )
    live = warm.runs.start({"main.py": code}, again=ANN)
    live.await_output("up")
    live.run.stop()
    end = live.wait()
    assert (end.stopped, end.exit_code) == (True, 1)
    assert live.output == "up\nasked\n"
    warm.unused()
    live = warm.runs.start(
        {"main.py": code.replace("lambda *a: sys.exit('asked')", "signal.SIG_IGN")}, again=ANN
    )
    live.await_output("up")
    live.run.stop()
    assert live.wait().exit_code == -signal.SIGKILL


def test_processor_time_is_the_tasks_own(warm: Warm) -> None:
    code = "import time\nwhile time.process_time() < 0.4: pass"
    used = []
    for text in (code, "pass"):
        warm.ready()
        used.append(warm.run(text)[0])
    assert used[0].cpu_seconds > 0.35
    assert used[1].cpu_seconds < used[0].cpu_seconds
    assert all(end.peak_memory_bytes > MIB for end in used)


def test_what_an_agent_that_was_killed_kept_warm_ends_and_is_found(
    warm: Warm, docker_engine: docker.DockerClient, tmp_path: Path
) -> None:
    node = f"tester/{tmp_path.name}-killed"
    code = f"""
import sys, time
from pathlib import Path
from tests.support.runs import RunFactory
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.warm_pool import WarmOptions
from worker_agent.runners.warm_rules import SandboxLimits
folder = Path({str(tmp_path)!r})
runner = DockerRunner({node!r}, WarmOptions(folder / "warm", 1))
RunFactory(runner, folder, node_id={node!r}, image={warm.runs._defaults["image"]!r}).script("pass")
while not runner.waiting:
    time.sleep(0.01)
print("waits", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"waits\n"
        child.kill()
    filters = {"label": f"hivemind.node={node}", "status": "running"}
    wait_until(lambda: not docker_engine.containers.list(filters=filters), "the sandbox ends with its agent")
    heir = DockerRunner(node)
    assert heir.reap(()) >= 1
    heir.close()


def test_what_does_not_fit_has_a_container_of_its_own(warm: Warm) -> None:
    for files in ({"main.py": "print(1)", "requirements.txt": "pip\n"},):
        live = warm.runs.start(files, again=ANN)
        assert type(live.run._task).__name__ == "Attached"  # type: ignore[attr-defined]
        assert live.wait().exit_code == 0
