"""What a task may do in a container, as the engine's options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.support.run_spec import BOOTSTRAP, MIB, SPEC
from worker_agent.runners.base import RunSpec, exit_code_of_shell
from worker_agent.runners.sandbox import (
    EngineFacts,
    attempt_slug,
    container_name,
    container_options,
    resize_options,
    secrets_input,
    task_command,
)

ENGINE = EngineFacts(cpus=4, cpu_quota=True)


def host(spec: RunSpec = SPEC, engine: EngineFacts = ENGINE) -> dict[str, object]:
    options = container_options(spec, user="60799:60799", engine=engine)["HostConfig"]
    assert isinstance(options, dict)
    return options


def test_a_container_gets_every_limit() -> None:
    options = host()
    assert options["NetworkMode"] == "none"
    assert options["CapDrop"] == ["ALL"]
    assert "CapAdd" not in options
    assert options["SecurityOpt"] == ["no-new-privileges:true"]
    assert options["ReadonlyRootfs"] is True
    assert options["Privileged"] is False
    assert options["Memory"] == options["MemorySwap"] == 512 * MIB
    assert options["NanoCpus"] == 1_500_000_000
    assert options["CpuShares"] == 1536
    assert options["PidsLimit"] == 64
    assert options["Init"] is True
    assert options["Tmpfs"] == {"/tmp": f"rw,exec,nosuid,nodev,size={16 * MIB},mode=1777"}
    assert options["LogConfig"] == {"Type": "none"}
    assert options["RestartPolicy"] == {"Name": "no"}
    assert options["Ulimits"] == [
        {"Name": "fsize", "Soft": 100 * MIB, "Hard": 100 * MIB},
        {"Name": "nofile", "Soft": 4096, "Hard": 4096},
        {"Name": "core", "Soft": 0, "Hard": 0},
    ]
    assert options["Mounts"] == [
        {"Type": "bind", "Source": "/data/work/task_1.2", "Target": "/work", "ReadOnly": False}
    ]
    assert "DeviceRequests" not in options
    assert "UsernsMode" not in options


RESIZES = {
    "less": (128 * MIB, 0.5, 128 * MIB, 512),
    "all of it": (512 * MIB, 1.5, 512 * MIB, 1536),
    "never more than the limits": (4096 * MIB, 8.0, 512 * MIB, 1536),
    "never nothing": (0, 0.0, 16 * MIB, 2),
}


@pytest.mark.parametrize(("memory", "cpus", "reservation", "shares"), RESIZES.values(), ids=RESIZES.keys())
def test_a_resize_moves_soft_limits_only(memory: int, cpus: float, reservation: int, shares: int) -> None:
    assert resize_options(SPEC, memory_bytes=memory, cpus=cpus) == {
        "mem_reservation": reservation,
        "cpu_shares": shares,
    }


def test_a_container_has_its_labels_user_and_environment() -> None:
    options = container_options(SPEC, user="60799:60799", engine=ENGINE)
    assert options["User"] == "60799:60799"
    assert options["WorkingDir"] == "/work"
    assert options["Labels"] == {
        "hivemind.node": "ann/pc",
        "hivemind.attempt": "task_1:2",
        "hivemind.workdir_bytes": str(100 * MIB),
    }
    assert {"TASK_ID=task_1", "PYTHONUNBUFFERED=1", "HOME=/tmp"} <= set(options["Env"])


SECRETS = {
    "TOKEN": "s3cret!",
    "KEY": "-----BEGIN-----\nline two\n\n",
    "ODD": "'\"\\$(id)`id`%b\\c\t{} \u706b\U0001f372\x7f\x81 ",
    "DASH": "-n is no option",
}
SHELLS = [found for name in ("dash", "bash", "busybox", "sh") if (found := shutil.which(name))]


def test_the_engine_is_told_of_no_secret() -> None:
    spec = replace(SPEC, secrets=SECRETS, environment={"PLAIN": "1"})
    options = container_options(spec, user="1:1", engine=ENGINE)
    told = json.dumps(options, ensure_ascii=False)
    assert not any(value in told or name in told for name, value in SECRETS.items())
    assert "PLAIN=1" in options["Env"]
    assert (options["OpenStdin"], options["StdinOnce"], options["AttachStdin"]) == (True, True, True)
    assert options["Entrypoint"][-4:] == container_options(SPEC, user="1:1", engine=ENGINE)["Entrypoint"]
    assert options["Cmd"] == ["main.py"]
    assert secrets_input({}) == b""


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_reads_secrets_as_they_are_and_leaves_nothing_else(shell: str) -> None:
    spec = replace(SPEC, secrets=SECRETS, entry="run.sh")
    _, option, program, *_ = container_options(spec, user="1:1", engine=ENGINE)["Entrypoint"]
    tells = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:], sys.stdin.read()]))"
    command = [shell, *(["sh"] if shell.endswith("busybox") else []), option, program]

    def run(given: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command, "sh", sys.executable, "-c", tells, "a b", "$x"],
            input=given,
            env={"LANG": "C.UTF-8"},
            capture_output=True,
            check=False,
        )

    environment, arguments, stdin = json.loads(run(secrets_input(SECRETS)).stdout)
    assert {name: value for name, value in environment.items() if name in SECRETS} == SECRETS
    assert not {name for name in environment if name.startswith("HIVEMIND")}
    assert (arguments, stdin) == (["a b", "$x"], "")
    cut = run(secrets_input(SECRETS)[:-1])
    assert cut.returncode == 1
    assert cut.stdout == b""
    assert b"did not arrive" in cut.stderr


def test_network_and_gpu_are_given_only_when_asked_for() -> None:
    options = host(replace(SPEC, network=True, gpu=True))
    assert options["NetworkMode"] == "bridge"
    assert options["DeviceRequests"] == [{"Count": -1, "Capabilities": [["gpu"]]}]


@pytest.mark.parametrize(("cpus", "nano"), [(0.0, 10_000_000), (64.0, 4_000_000_000)])
def test_cpus_stay_within_what_the_engine_accepts(cpus: float, nano: int) -> None:
    assert host(replace(SPEC, cpus=cpus))["NanoCpus"] == nano


def test_an_engine_without_cpu_quota_is_not_asked_for_one() -> None:
    assert "NanoCpus" not in host(engine=EngineFacts(cpus=4, cpu_quota=False))


def test_an_engine_that_remaps_users_is_told_not_to() -> None:
    assert host(engine=replace(ENGINE, userns_remap=True))["UsernsMode"] == "host"


def test_the_images_own_entrypoint_is_not_run() -> None:
    options = container_options(replace(SPEC, entry="run.sh"), user="1:1", engine=ENGINE)
    assert (options["Entrypoint"], options["Cmd"]) == (["sh"], ["run.sh"])
    options = container_options(SPEC, user="1:1", engine=ENGINE)
    assert options["Entrypoint"][:2] == ["sh", "-c"]
    assert options["Cmd"] == ["main.py"]


def test_requirements_bring_a_script_before_the_entry_and_a_place_outside_the_result() -> None:
    options = container_options(SPEC, user="1:1", engine=ENGINE, bootstrap=BOOTSTRAP)
    assert options["Cmd"] == ["-c", "import sys", "offline", "python", "main.py"]
    assert [mount["Target"] for mount in options["HostConfig"]["Mounts"]] == ["/work", "/deps"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("main.py", ("python", ["main.py"])),
        ("run.sh", ("sh", ["run.sh"])),
        ("-c.py", ("python", ["./-c.py"])),
    ],
)
def test_the_entry_decides_the_interpreter(entry: str, expected: tuple[str, list[str]]) -> None:
    assert task_command(replace(SPEC, entry=entry), None) == expected


def test_names_of_containers_are_allowed_ones_and_differ() -> None:
    assert container_name("ann", "t_1:3") == "hivemind-ann-t_1.3"
    slashed = container_name("ann/pc", "t:1")
    assert slashed.startswith("hivemind-ann-pc-")
    assert "/" not in slashed
    assert slashed != container_name("ann-pc", "t:1")
    assert container_name("安/圖", "t:1").isascii()
    assert attempt_slug("a.1:2") != attempt_slug("a:12")


@pytest.mark.parametrize(
    ("code", "expected"), [(0, 0), (3, 3), (127, 127), (128, 128), (137, -9), (143, -15), (255, 255)]
)
def test_a_wrappers_exit_code_tells_the_signal(code: int, expected: int) -> None:
    assert exit_code_of_shell(code) == expected


def test_arguments_and_environment_reach_the_container_and_no_shell() -> None:
    given = replace(SPEC, arguments=("$HOME", "-x"), environment={"LR": "a b", "HOME": "/evil", "LANG": "C"})
    for entry, entrypoint in (("main.py", "sh"), ("run.sh", "sh")):
        options = container_options(replace(given, entry=entry), user="1:1", engine=ENGINE)
        assert options["Cmd"] == [entry, "$HOME", "-x"]
        assert options["Entrypoint"][0] == entrypoint
        assert {"LR=a b", "HOME=/tmp", "LANG=C"} <= set(options["Env"])
        assert "HOME=/evil" not in options["Env"]
