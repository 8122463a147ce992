"""What a task may do as a process, as a plan for the launcher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.run_spec import BOOTSTRAP, MIB, SPEC
from worker_agent.runners import launcher, seccomp
from worker_agent.runners.base import RunSpec
from worker_agent.runners.plan import Place, Sandbox, SandboxTools, TaskUser, process_environment, run_plan

BUBBLEWRAP = SandboxTools(
    python="/opt/python/bin/python3.11",
    python_prefix="/opt/python",
    sandbox=Sandbox.BUBBLEWRAP,
    system_paths=(("/usr", ""), ("/bin", "usr/bin"), ("/etc/ssl", "")),
    network_files=("/etc/resolv.conf",),
    passwd_file="/state/passwd",
    group_file="/state/group",
    machine="x86_64",
    bwrap="/usr/bin/bwrap",
    setpriv="/usr/bin/setpriv",
)
NAMESPACES = replace(BUBBLEWRAP, sandbox=Sandbox.NAMESPACES, bwrap="")
NONE = replace(NAMESPACES, sandbox=Sandbox.NONE)
ROOTS = TaskUser(drop_to=60_800)
OWN = TaskUser(drop_to=None, processes_besides=100)
COUNTED = Place(memory_counted=True, time_bounded=True, group_files=("/groups/tasks",), cores=(1, 0))


def plan(
    tools: SandboxTools = BUBBLEWRAP, user: TaskUser = ROOTS, place: Place = COUNTED, spec: RunSpec = SPEC
) -> dict[str, Any]:
    return run_plan(spec, tools, user, place)


def command(tools: SandboxTools = BUBBLEWRAP, user: TaskUser = ROOTS, spec: RunSpec = SPEC) -> str:
    return " ".join(plan(tools, user, spec=spec)["command"])


@pytest.mark.parametrize("tools", [BUBBLEWRAP, NAMESPACES, NONE], ids=lambda tools: str(tools.sandbox))
def test_every_limit_of_a_process_is_set(tools: SandboxTools) -> None:
    made = plan(tools)
    assert made["limits"] == {
        "RLIMIT_DATA": 512 * MIB,
        "RLIMIT_AS": 2 * 512 * MIB + (4 << 30),
        "RLIMIT_FSIZE": 100 * MIB,
        "RLIMIT_NPROC": 64,
        "RLIMIT_NOFILE": 4096,
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": 150,
    }
    assert made["cgroups"] == ["/groups/tasks"]
    assert made["cores"] == [0, 1]
    assert made["oom_score"] > 0
    assert made["user"] == 60_800
    assert made["filter"]


def test_an_unprivileged_agents_own_processes_do_not_count_against_the_task() -> None:
    assert plan(user=OWN)["limits"]["RLIMIT_NPROC"] == 164


def test_bubblewrap_comes_first_then_the_user_then_the_task() -> None:
    words = plan()["command"]
    order = [words.index(word) for word in ("/usr/bin/bwrap", "/usr/bin/setpriv", BUBBLEWRAP.python)]
    assert order == sorted(order)
    assert words[-1] == "main.py"


def test_root_is_given_up_with_every_capability() -> None:
    line = command()
    for option in (
        "--no-new-privs",
        "--reuid=60800",
        "--regid=60800",
        "--clear-groups",
        "--bounding-set=-all",
    ):
        assert option in line
    assert "--unshare-user" not in line
    assert "--reuid" not in command(user=OWN)
    assert "--unshare-user" in command(user=OWN)
    assert "--disable-userns" in command(replace(BUBBLEWRAP, disable_userns=True), OWN)


def test_a_sandbox_shows_what_it_must_and_no_more() -> None:
    line = command()
    for option in (
        "--die-with-parent",
        "--new-session",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-net",
        "--seccomp 4",
        "--ro-bind /usr /usr",
        "--symlink usr/bin /bin",
        "--ro-bind /opt/python /opt/python",
        "--bind /data/work/task_1.2 /work",
        f"--size {16 * MIB} --tmpfs /tmp",
        "--remount-ro /",
        "--chdir /work",
    ):
        assert option in line
    assert line.count("--bind ") == 1
    assert "resolv.conf" not in line


def test_the_launchers_own_namespaces_show_the_same() -> None:
    made = run_plan(SPEC, NAMESPACES, ROOTS, COUNTED, BOOTSTRAP)
    assert made["own"] == [("/data/work/task_1.2", "/work"), ("/data/work/task_1.2.deps", "/deps")]
    assert ("/usr", "/usr") in made["shown"]
    assert ("/state/passwd", "/etc/passwd") in made["shown"]
    assert ("usr/bin", "/bin") in made["links"]
    assert made["folder"] == "/work"
    assert made["network"] is False
    assert made["command"][0] == NAMESPACES.python


def test_the_network_is_shared_only_when_asked_for() -> None:
    networked = replace(SPEC, network=True)
    assert "--unshare-net" not in command(spec=networked)
    assert "/etc/resolv.conf" in command(spec=networked)
    assert plan(NAMESPACES, spec=networked)["network"] is True


def test_without_namespaces_a_task_stays_in_its_folder() -> None:
    made = run_plan(SPEC, NONE, OWN, Place(home="/state/homes/task_1.2"))
    assert made["folder"] == "/data/work/task_1.2"
    assert made["environment"]["HOME"] == "/state/homes/task_1.2"
    assert "own" not in made


def test_what_nothing_else_counts_the_filter_closes() -> None:
    counted = seccomp.Surface(ipc=True, shared_memory=True, internet=True, affinity=True)
    alone = seccomp.Surface(ipc=False, shared_memory=False, internet=False, affinity=False)
    uncounted = replace(counted, shared_memory=False, affinity=False)
    assert _filter(plan()) == seccomp.program("x86_64", counted)
    assert _filter(plan(place=Place())) == seccomp.program("x86_64", uncounted)
    assert _filter(plan(NONE, OWN, Place())) == seccomp.program("x86_64", alone)


def _filter(made: dict[str, Any]) -> bytes:
    return bytes.fromhex(made["filter"])


def test_a_machine_whose_calls_are_not_known_gets_no_filter() -> None:
    surface = seccomp.Surface(ipc=True, shared_memory=True, internet=True, affinity=True)
    assert seccomp.program("riscv64", surface) is None
    assert "--seccomp" not in command(replace(BUBBLEWRAP, machine="riscv64"))
    for machine in ("x86_64", "aarch64"):
        made = seccomp.program(machine, surface)
        assert made is not None
        assert len(made) % 8 == 0
        assert len(made) // 8 < 4096


def test_a_task_gets_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "s3cret")
    environment = process_environment(SPEC, BUBBLEWRAP, "/tmp")
    assert environment["TASK_ID"] == "task_1"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["PATH"].startswith("/opt/python/bin:")
    assert "AGENT_SECRET" not in environment


GIVEN = replace(
    SPEC,
    arguments=("--lr=0.1", "two words\n", "-c", ""),
    environment={
        "LR": "0.1",
        "LANG": "zh_TW.UTF-8",
        "PATH": "/evil",
        "TASK_ID": "another",
        "HIVEMIND_ATTEMPT": "x",
    },
)


@pytest.mark.parametrize("tools", [BUBBLEWRAP, NAMESPACES, NONE], ids=lambda tools: str(tools.sandbox))
def test_arguments_come_last_and_as_they_are(tools: SandboxTools) -> None:
    assert plan(tools, spec=GIVEN)["command"][-5:] == ["main.py", *GIVEN.arguments]
    script = replace(GIVEN, entry="run.sh")
    assert plan(tools, spec=script)["command"][-6:] == ["/bin/sh", "run.sh", *GIVEN.arguments]
    installing = run_plan(GIVEN, tools, ROOTS, COUNTED, BOOTSTRAP)
    assert installing["command"][-7:] == ["offline", "python", "main.py", *GIVEN.arguments]


def test_what_the_run_needs_wins_over_its_owners_environment() -> None:
    environment = process_environment(GIVEN, NONE, "/tmp")
    assert (environment["LR"], environment["LANG"]) == ("0.1", "zh_TW.UTF-8")
    assert environment["PATH"].startswith("/opt/python/bin:")
    assert (environment["TASK_ID"], environment["HIVEMIND_ATTEMPT"]) == (SPEC.task_id, SPEC.attempt_id)


def test_a_plan_goes_to_the_launcher_word_for_word_and_no_longer_than_it_is() -> None:
    odd = "\x01\n火\udcff" * 1000
    made = plan(spec=replace(SPEC, arguments=(odd,), environment={"ODD": f"={odd}"}))
    message = launcher.packed(made)
    assert len(message) < 3 * 6000 + 6000
    got = launcher.unpacked(message)
    words = [word.decode("utf-8", "surrogateescape") for word in got["command"]]
    assert words == made["command"]
    assert got["environment"][b"ODD"].decode("utf-8", "surrogateescape") == f"={odd}"
    assert {name: got[name] for name in made if name not in ("command", "environment")} == {
        name: value for name, value in made.items() if name not in ("command", "environment")
    }


@pytest.mark.parametrize("tools", [BUBBLEWRAP, NAMESPACES, NONE], ids=lambda tools: str(tools.sandbox))
def test_secrets_are_in_the_environment_and_in_no_command(tools: SandboxTools) -> None:
    made = plan(tools, spec=replace(SPEC, secrets={"TOKEN": "s3cret!", "HOME": "/"}))
    assert made["environment"]["TOKEN"] == "s3cret!"
    assert made["environment"]["HOME"] == "/tmp"
    assert "s3cret!" not in " ".join(made["command"])
