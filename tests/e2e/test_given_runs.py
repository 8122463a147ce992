"""What an owner gives a run, through every real part: the command, the gateway, an agent, a sandbox."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import docker
import grpc
import psutil
import pytest

import hivemind
from nodepool.domain.capabilities import ALL as CAPABILITIES
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.environment import ROOT
from tests.support.flows import Step, submit_flow
from tests.support.odd_words import ODD_VARIABLES, ODD_WORDS, TELL, TELLING_PACKAGE, told
from tests.support.pool import TestPool
from tests.support.secret_runs import KEEPS_A_SECRET, KEPT, keeps_it
from tests.support.tasks import package, script, unpacked
from tests.support.traces import everything_in

SECRET_VALUE = KEPT
READS_INPUTS = """
import json, os, sys
from pathlib import Path

made = Path(sys.argv[1])
changes = {
    "a new file": lambda: (made / "mine").write_text("x"),
    "a file beside": lambda: (made.parent / "mine").write_text("x"),
    "its text": lambda: (made / "made.txt").write_text("x"),
    "its mode": lambda: (made / "made.txt").chmod(0o777),
    "its name": lambda: (made / "made.txt").rename(made / "other.txt"),
    "that it is there": lambda: (made / "made.txt").unlink(),
}
changed = []
for name, change in changes.items():
    try:
        change()
    except OSError:
        continue
    changed.append(name)
print(json.dumps({
    "argument": sys.argv[1],
    "variable": os.environ["MADE"],
    "there": sorted(path.name for path in made.iterdir()),
    "text": (made / "made.txt").read_text(),
    "is_read_only": bool(os.statvfs(made).f_flag & os.ST_RDONLY),
    "changed": changed,
}))
"""


def run_command(
    pool: TestPool, user: Account, folder: Path, *words: str, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`hivemind WORDS` as this user, with nothing else in its environment; `given` is its stdin."""
    done = subprocess.run(
        [sys.executable, "-m", "hivemind", *words],
        env={
            "PATH": "/usr/bin:/bin", "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT),
            "HIVEMIND_GATEWAY": pool.address, "HIVEMIND_TOKEN": user.token, "LANG": "C.UTF-8", **environment,
        },
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_the_command_gives_a_run_its_words_and_a_name_to_find_it_by(pool: TestPool, tmp_path: Path) -> None:
    user = pool.register_user()
    (tmp_path / "main.py").write_text(TELL)
    (tmp_path.parent / "variables").write_text("# mine\nODD_B=from the file\nODD_A=of the file\n")

    def hivemind(*words: str) -> str:
        return run_command(pool, user, tmp_path, *words, ODD_C="the caller's").stdout

    sent = hivemind(
        "submit", str(tmp_path), "--env-file", str(tmp_path.parent / "variables"), "-e", "ODD_A=x=y",
        "-e", "ODD_C",
        "--name", "first sweep", "--label", "sweep=1", "--label", "team=", "--", *ODD_WORDS,
    )  # fmt: skip
    task = sent.strip()
    user.wait_for(task, "COMPLETED")
    assert told(user.logs(task)) == (
        ODD_WORDS,
        {"ODD_A": "x=y", "ODD_B": "from the file", "ODD_C": "the caller's"},
    )
    status = json.loads(hivemind("status", task, "--json"))
    assert status["arguments"] == list(ODD_WORDS)
    assert (status["name"], status["labels"]) == ("first sweep", {"sweep": "1", "team": ""})
    assert status["environment"]["ODD_A"] == "x=y"
    shown = hivemind("status", task)
    assert "ODD_A ODD_B ODD_C" in shown
    assert "x=y" not in shown
    assert "\x1b" not in shown
    (listed,) = json.loads(hivemind("ls", "--json"))
    assert (listed["name"], listed["labels"]) == ("first sweep", {"sweep": "1", "team": ""})
    assert (listed["arguments"], listed["environment"]) == ([], {})
    assert "first sweep" in hivemind("ls")


def test_a_sweep_in_one_line_runs_each_task_with_its_own(pool: TestPool, tmp_path: Path) -> None:
    user = pool.register_user()
    names = ("RUN", "HIVEMIND_INDEX", "HIVEMIND_COUNT")
    (tmp_path / "main.py").write_text(
        f"import os, sys; print(sys.argv[1:], *(os.environ[name] for name in {names}))"
    )

    def hivemind(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(pool, user, tmp_path, *words)

    done = hivemind(
        "submit", str(tmp_path), "--matrix", "lr=0.1,0.01", "seed=1-2",
        "-e", "RUN=r{index}", "--label", "exp=1", "--", "--lr", "{lr}", "{{{seed}}}",
    )  # fmt: skip
    job_id = done.stdout.strip()
    assert "4 tasks, at most" in done.stderr
    watched = hivemind("job", "watch", job_id, "--json").stdout.splitlines()
    assert json.loads(watched[-1])["counts"] == {"SUCCEEDED": 4}
    said = [user.logs(f"{job_id}.{index}").strip() for index in range(4)]
    assert said == [
        "['--lr', '0.1', '{1}'] r0 0 4",
        "['--lr', '0.1', '{2}'] r1 1 4",
        "['--lr', '0.01', '{1}'] r2 2 4",
        "['--lr', '0.01', '{2}'] r3 3 4",
    ]
    told = user.stubs.tasks.GetJob(pb.GetJobRequest(job_id=job_id), metadata=user.metadata, timeout=60)
    assert dict(told.job.counts) == {"SUCCEEDED": 4}
    assert (told.job.paid_cpt, told.job.held_cpt) == (4, 0)
    hivemind("job", "result", job_id, "--output", str(tmp_path / "out" / "{index}"), "--only", "*log*")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1", "2", "3"]
    assert (tmp_path / "out" / "2" / "execution_log.txt").is_file()
    assert not (tmp_path / "out" / "2" / "main.py").exists()
    assert job_id in hivemind("job", "ls").stdout


def test_the_example_of_a_training_run_is_trained_with_what_it_is_given(pool: TestPool) -> None:
    user = pool.register_user()
    source = (ROOT / "examples" / "train" / "main.py").read_text(encoding="utf-8")
    task = user.submit(script(source), arguments=["--lr", "0.1", "--seed", "3"], environment={"EPOCHS": "2"})
    user.wait_for(task, "COMPLETED")
    result = json.loads(unpacked(user.result(task))["result.json"])
    assert (result["lr"], result["seed"], result["epochs"]) == (0.1, 3, 2)
    assert result["loss"] < 0.1
    too_large = user.submit(script(source), arguments=["--lr", "10"])
    user.wait_for(too_large, "FAILED")
    assert "the learning rate 10.0 is too large" in user.logs(too_large)


@pytest.mark.docker
def test_a_container_is_given_the_same(docker_pool: TestPool) -> None:
    user = docker_pool.register_user()
    task = user.submit(package(TELLING_PACKAGE), arguments=ODD_WORDS, environment=ODD_VARIABLES)
    user.wait_for(task, "COMPLETED")
    assert told(user.logs(task)) == (ODD_WORDS, ODD_VARIABLES)


@pytest.mark.docker
def test_a_secret_reaches_a_container_and_nothing_else_has_it(
    docker_pool: TestPool, docker_engine: docker.DockerClient, tmp_path: Path
) -> None:
    """From `hivemind secret set` on: in no log, file, message, table, list of processes or engine."""
    user = docker_pool.register_user()
    (tmp_path / "run.sh").write_text('printf "it is %s" "$DB"; exec python3 main.py "$@"')
    (tmp_path / "main.py").write_text(KEEPS_A_SECRET.replace("TOKEN", "DB"))
    (tmp_path / ".env").write_text("PASSWORD=1")

    def hivemind(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return run_command(docker_pool, user, tmp_path, *words, given=given)

    assert "secret DB_KEY is set" in hivemind("secret", "set", "DB_KEY", given=f"{SECRET_VALUE}\n").stderr
    assert [each["name"] for each in json.loads(hivemind("secret", "ls", "--json").stdout)] == ["DB_KEY"]
    sent = hivemind("submit", str(tmp_path), "--secret", "DB_KEY=DB", "--", "given")
    assert "left out what may be secret: .env" in sent.stderr
    task = sent.stdout.strip()
    keeps_it(docker_pool, user, task, engine=docker_engine)
    assert "DB_KEY=DB" in hivemind("status", task).stdout


@pytest.mark.docker
def test_a_container_reads_what_a_step_made_and_changes_nothing_of_it(
    docker_pool: TestPool,
) -> None:
    user, job_id = docker_pool.register_user(), "in-containers"
    steps = [
        Step(name="make", zip_bytes=script("open('made.txt', 'w').write('of another container')")),
        Step(
            name="read", needs=["make"], zip_bytes=script(READS_INPUTS),
            task={"arguments": ["{make.result}"], "environment": {"MADE": "{make.result}"}},
        ),
    ]  # fmt: skip
    submit_flow(user, job_id, steps)
    user.wait_for(f"{job_id}.read", "COMPLETED")
    said = json.loads(user.logs(f"{job_id}.read"))
    assert said["argument"] == said["variable"] == "inputs/make"
    assert ("made.txt" in said["there"], said["text"], said["is_read_only"]) == (
        True, "of another container", True,
    )  # fmt: skip
    assert said["changed"] == []
    assert not any(name.startswith("inputs") for name in unpacked(user.result(f"{job_id}.read")))


def _where(number: int) -> tuple[float, bool]:
    return 10 / number, Path("/.dockerenv").exists()


@pytest.mark.docker
def test_functions_run_in_containers_and_their_objects_and_errors_come_back(
    docker_pool: TestPool, tmp_path: Path
) -> None:
    user = docker_pool.register_user()
    with hivemind.connect(docker_pool.address, token=user.token, profile=tmp_path / "none") as pool:
        job = pool.map(_where, [4, 0], memory="128M")
        value, error = job.results(return_exceptions=True)
        assert value == (2.5, True)
        assert isinstance(error, ZeroDivisionError)
        assert "return 10 / number" in str(error.__cause__)
        with pool.executor(memory="128M") as executor:
            assert executor.submit(_where, 5).result() == (2.0, True)


def test_a_repeated_upload_is_the_same_only_with_the_same_words(pool: TestPool) -> None:
    user = pool.register_user()
    data, given = script("print(1)"), {"arguments": ["a"], "environment": {"A": "1"}, "name": "n"}
    task = user.submit(data, **given)
    assert user.submit(data, task_id=task, **given) == task
    for other in ({"arguments": ["b"]}, {"environment": {"A": "2"}}, {"name": "m"}, {"labels": {"k": "v"}}):
        with pytest.raises(grpc.RpcError) as refused:
            user.submit(data, task_id=task, **{**given, **other})
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    plain = user.submit(data)
    assert user.submit(data, task_id=plain) == plain


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arguments": ["a\0b"]}, "arguments must not hold a NUL character"),
        ({"arguments": ["x"] * 1025}, "at most 1024 arguments"),
        ({"arguments": ["x" * 40_000]}, "over the limit of 32768"),
        (
            {"environment": {"LD_PRELOAD": "/work/x.so", "HOME": "/"}},
            r"LD_PRELOAD \(it changes what programs load",
        ),
        ({"environment": {"A B": ""}}, "letters, digits and underscores"),
        ({"name": "\x1b[2J"}, "printable characters on one line"),
        ({"labels": {"k": "two\nlines"}}, "printable characters on one line"),
        ({"labels": {f"k{number}": "" for number in range(33)}}, "at most 32 labels"),
    ],
)
def test_what_no_run_can_be_given_is_refused_and_nothing_is_kept(
    pool: TestPool, given: dict[str, object], words: str
) -> None:
    user = pool.register_user()
    with pytest.raises(grpc.RpcError, match=words) as refused:
        user.submit(script("print(1)"), task_id="refused", **given)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError):
        user.poll("refused")


def test_all_bounds_can_be_reached_at_once(pool: TestPool) -> None:
    """More than so much text around a package is no message (gateway/admission/message_shapes.py)."""
    user = pool.register_user()
    words = ["x" * 25] * 1024
    variables = {f"VARIABLE_{number:03}": "v" * 8 for number in range(255)}
    task = user.submit(
        script("import sys; print(len(sys.argv))"),
        arguments=words,
        environment=variables,
        name="🍲" * 128,
        labels={f"{number:063}": "🍲" * 128 for number in range(32)},
    )
    user.wait_for(task, "COMPLETED")
    assert user.logs(task) == "1025\n"


def test_values_of_the_environment_are_in_no_log_and_in_no_broker(pool: TestPool) -> None:
    user = pool.register_user()
    source = "import time; print('up', flush=True); time.sleep(600)"
    task = user.submit(script(source), environment={"PASSWORD": SECRET_VALUE}, arguments=["an-argument"])
    pool.wait(lambda: "up" in user.logs(task), "it runs")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert not any(SECRET_VALUE in word for word in process.cmdline())
    user.stop(task)
    user.wait_for(task, "STOPPED")
    for log in pool.folder.rglob("*.log"):
        assert SECRET_VALUE not in log.read_text(errors="replace"), log
    assert SECRET_VALUE not in everything_in(pool.valkey.client())
    assert SECRET_VALUE.encode() not in user.result(task)


def test_an_older_agent_is_told_from_one_of_this_version(pool: TestPool) -> None:
    user = pool.register_user()
    assert {frozenset(node.capabilities) for node in user.node_list()} == {frozenset(CAPABILITIES)}
    told_health = user.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=60)
    assert {*CAPABILITIES} <= set(told_health.capabilities)  # and what the pool does by itself
