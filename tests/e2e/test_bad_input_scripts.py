"""Scripts that fail, flood, hang and fork, on the process runner of a whole pool."""

from __future__ import annotations

import signal

import pytest

from tests.support.accounts import Account
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import package, script, unpacked

MAX_OUTPUT_BYTES = 1 << 20
LIVE_OUTPUT_BYTES = 256 << 10
MAX_WORKDIR_BYTES = 16 << 20
FLOOD = """
import os
line = b'x' * 1023 + b'\\n'
for _ in range(100 * 1024):
    os.write(1, line)
print('the end')
"""
NO_NEWLINE = "import sys\nsys.stdout.write('y' * 300_000)\nsys.stdout.flush()"
TEN_GIGABYTES = """
with open('small.txt', 'w') as file:
    file.write('here before')
with open('large.bin', 'wb', buffering=0) as file:
    for _ in range(10 * 1024):
        file.write(bytes(1 << 20))
print('all of it was written')
"""
MANY_FILES = """
import os
for number in range(10_000):
    with open(f'f{number}', 'wb') as file:
        file.write(os.urandom(1 << 20))
print('all of them were written')
"""
FORKS = """
import os, time
made = 0
while made < 100_000:
    try:
        if os.fork() == 0:
            time.sleep(3600)
    except OSError as error:
        print('no more after', made, error, flush=True)
        break
    made += 1
"""
IGNORES_SIGTERM = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open('partial.txt', 'w').write('half of it')
if os.fork() == 0:
    os.setsid()
print('begun', flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    settings = {
        "MAX_OUTPUT_BYTES": MAX_OUTPUT_BYTES,
        "MAX_LIVE_OUTPUT_BYTES": LIVE_OUTPUT_BYTES,
        "MAX_WORKDIR_BYTES": MAX_WORKDIR_BYTES,
        "PIDS_LIMIT": 64,
    }
    return pool_factory(agents=1, settings={name: str(value) for name, value in settings.items()})


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture(autouse=True)
def _the_node_still_works(user: Account) -> object:
    yield
    user.wait_for(user.submit(script("print('still well')")), "COMPLETED")


def test_exit_code_three_fails_the_task_with_it_and_a_result(user: Account) -> None:
    task = user.submit(script("open('made.txt', 'w').write('made')\nprint('said')\nraise SystemExit(3)"))
    detail = user.wait_for(task, "FAILED").detail
    assert (detail.has_exit_code, detail.exit_code, detail.state) == (True, 3, "FAILED")
    files = unpacked(user.result(task))
    assert (files["made.txt"], files["task_logs.txt"]) == (b"made", b"said\n")


def test_a_script_that_is_killed_fails_with_the_signal(user: Account) -> None:
    task = user.submit(script("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"))
    detail = user.wait_for(task, "FAILED").detail
    assert detail.exit_code == -signal.SIGKILL
    assert detail.attempt_number == 1
    assert detail.reason


def test_of_a_hundred_megabytes_of_output_a_bounded_part_is_kept(user: Account) -> None:
    task = user.submit(script(FLOOD))
    user.wait_for(task, "COMPLETED", timeout=180)
    logs = unpacked(user.result(task))["task_logs.txt"]
    assert MAX_OUTPUT_BYTES <= len(logs) <= MAX_OUTPUT_BYTES + 200
    assert b"output is cut here" in logs[-200:]
    assert len(user.logs(task)) <= MAX_OUTPUT_BYTES + 400
    assert len(user.poll(task).output) <= 1000


def test_output_without_a_newline_is_kept_and_shown(user: Account) -> None:
    task = user.submit(script(NO_NEWLINE))
    user.wait_for(task, "COMPLETED")
    assert unpacked(user.result(task))["task_logs.txt"] == b"y" * 300_000
    assert user.logs(task) == "y" * 300_000


def test_output_that_is_no_text_is_kept_as_it_is(user: Account) -> None:
    task = user.submit(script("import os\nos.write(1, bytes(range(256)))"))
    user.wait_for(task, "COMPLETED")
    assert unpacked(user.result(task))["task_logs.txt"] == bytes(range(256))
    assert "\N{REPLACEMENT CHARACTER}" in user.logs(task)


@pytest.mark.parametrize("source", [TEN_GIGABYTES, MANY_FILES], ids=["one file", "many files"])
def test_a_script_that_writes_ten_gigabytes_is_bounded(user: Account, source: str) -> None:
    task = user.submit(script(source))
    answer = user.wait_for(task, "FAILED", timeout=180)
    assert answer.detail.attempt_number == 1
    assert answer.detail.reason
    assert "all of" not in user.logs(task)
    assert b"main.py" in b"".join(name.encode() for name in unpacked(user.result(task)))


def test_a_script_that_forks_without_end_is_bounded_and_the_task_ends(user: Account) -> None:
    task = user.submit(script(FORKS))
    user.wait_for_end(task, timeout=180)
    assert "no more after" in user.logs(task)


def test_a_script_that_ignores_sigterm_is_stopped_and_keeps_its_files(pool: TestPool, user: Account) -> None:
    task = user.submit(script(IGNORES_SIGTERM))
    pool.wait(lambda: "begun" in user.logs(task), "the task has begun")
    assert user.stop(task).success
    user.wait_for(task, "STOPPED")
    files = unpacked(user.result(task))
    assert files["partial.txt"] == b"half of it"
    assert "task_stopped.txt" in files
    assert b"begun" in files["task_logs.txt"]
    assert not user.stop(task).success
    assert user.poll(task).status == "STOPPED"


@pytest.mark.parametrize(
    "files",
    [
        {"run.sh": "exec /no/such/program\n"},
        {"run.sh": "#!/no/such/interpreter\nexit 5\n", "main.py": "print('not this')"},
        {"main.py": "import no_such_module_of_ours"},
        {"main.py": "this is not python ("},
        {"main.py": b"\x00\xff\xfe"},
    ],
    ids=["program", "interpreter", "module", "syntax", "bytes"],
)
def test_an_entry_that_cannot_run_fails_the_task_once(user: Account, files: dict[str, str | bytes]) -> None:
    task = user.submit(package(files))
    detail = user.wait_for(task, "FAILED").detail
    assert detail.exit_code != 0
    assert detail.attempt_number == 1
    assert "not this" not in user.logs(task)


def test_an_entry_that_removes_itself_has_run(user: Account) -> None:
    task = user.submit(script("import os\nos.remove('main.py')\nprint('gone')"))
    user.wait_for(task, "COMPLETED")
    assert "main.py" not in unpacked(user.result(task))


@pytest.mark.parametrize("line", ["-r /etc/shadow", "./gone.whl"])
def test_requirements_that_cannot_be_installed_fail_the_task_with_the_reason(
    user: Account, line: str
) -> None:
    task = user.submit(package({"main.py": "print('it ran')", "requirements.txt": f"{line}\n"}))
    detail = user.wait_for(task, "FAILED").detail
    assert "requirements.txt could not be installed" in detail.reason
    assert detail.attempt_number == 1
    assert "it ran" not in user.logs(task)


def test_a_script_that_leaves_links_and_odd_names_still_has_a_result(user: Account) -> None:
    source = """
import os
os.symlink('/etc/shadow', 'link')
os.mkfifo('pipe')
os.mkdir('sub')
open('execution_log.txt', 'w').write('forged')
open(os.fsdecode(b'odd\\xff'), 'w').write('odd')
open('kept.txt', 'w').write('kept')
"""
    task = user.submit(script(source))
    user.wait_for(task, "COMPLETED")
    files = unpacked(user.result(task))
    assert files["kept.txt"] == b"kept"
    assert b"forged" not in files["execution_log.txt"]
    assert not {"link", "pipe"} & set(files)
