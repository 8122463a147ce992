"""The process runner with real processes, in the strongest sandbox of this machine and in the weakest."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nodepool.domain.tasks.run_inputs import MAX_INPUT_BYTES
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
from worker_agent.runners.process import ProcessRunner

AS_ROOT = os.geteuid() == 0
FORK_BOMB = """
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        break
    made += 1
    if made > 2000:
        break
print('made', made, flush=True)
time.sleep(600)
"""
IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open('partial.txt', 'w').write('half')
print('ready', flush=True)
time.sleep(600)
"""


def test_a_script_runs_in_its_directory_with_its_environment(runs: RunFactory, run_folder: Path) -> None:
    code = """
import json, os
open('made.txt', 'w').write('here')
print(json.dumps([os.getcwd(), dict(os.environ), os.getuid(), os.listdir('.')]))
"""
    end, live = runs.run({"main.py": code, "data.txt": "d"}, attempt_id=f"{run_folder.name}:3")
    cwd, environment, uid, names = json.loads(live.output)
    assert (end.exit_code, end.stopped, end.problem) == (0, False, "")
    assert environment["TASK_ID"] == run_folder.name
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert not {name for name in environment if name.startswith(("HIVEMIND_TEST", "PYTEST", "VIRTUAL_ENV"))}
    assert sorted(names) == ["data.txt", "made.txt", "main.py"]
    assert (live.spec.work_dir / "made.txt").read_text() == "here"
    assert (uid != 0) if AS_ROOT else (uid == os.getuid())
    separate = isinstance(runs.runner, ProcessRunner) and runs.runner.tools.separate
    assert cwd == ("/work" if separate else str(live.spec.work_dir))


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


def test_a_shell_script_is_run_by_sh(runs: RunFactory) -> None:
    end, live = runs.run({"run.sh": "echo hello; echo oops >&2; python3 -c 'print(6*7)'"})
    assert end.exit_code == 0
    assert live.output.split() == ["hello", "oops", "42"]


def test_as_much_as_the_bound_allows_reaches_the_run(runs: RunFactory) -> None:
    """Of the worst kind: in JSON each of these would be six bytes long."""
    long = "\x01" * (MAX_INPUT_BYTES // 2 - 10)
    end, live = runs.script(TELL, arguments=(long, ""), environment={"ODD_LONG": long})
    assert (end.exit_code, told(live.output)) == (0, ((long, ""), {"ODD_LONG": long}))


def test_a_script_whose_requirements_are_installed_first_is_given_its_arguments_too(runs: RunFactory) -> None:
    end, live = runs.run({"main.py": TELL, "requirements.txt": "pip\n"}, arguments=ODD_WORDS)
    assert (end.exit_code, told(live.output)[0]) == (0, ODD_WORDS), live.output


def test_a_file_called_like_an_option_is_a_file(runs: RunFactory) -> None:
    end, live = runs.run({"-c.py": "print('a file')"})
    assert (end.exit_code, live.output) == (0, "a file\n")


def test_the_exit_code_is_passed_on(runs: RunFactory) -> None:
    end, _ = runs.script("raise SystemExit(3)")
    assert (end.exit_code, end.problem, end.stopped) == (3, "", False)


def test_a_task_killed_by_a_signal_says_which(runs: RunFactory) -> None:
    end, _ = runs.script("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert end.exit_code == -signal.SIGSEGV


def test_a_missing_entry_fails_with_pythons_words(runs: RunFactory) -> None:
    end, live = runs.run({})
    assert end.exit_code == 2
    assert "main.py" in live.output


def test_a_hundred_megabytes_of_output_arrive(runs: RunFactory) -> None:
    end, live = runs.script(
        "import sys\nblock = b'x' * 999_999 + b'\\n'\nfor _ in range(100): sys.stdout.buffer.write(block)"
    )
    assert end.exit_code == 0
    assert live.output_bytes == 100_000_000


def test_output_without_a_newline_arrives_while_the_task_runs(runs: RunFactory) -> None:
    live = runs.start({"main.py": "import time; print('no newline', end='', flush=True); time.sleep(600)"})
    wait_until(lambda: live.output == "no newline", "the output is there")
    live.run.stop()
    assert live.wait().stopped


def test_a_file_can_grow_to_the_cap_only(runs: RunFactory) -> None:
    code = """
import os
with open('big', 'wb') as file:
    for _ in range(10 << 10):
        file.write(bytes(1 << 20))
"""
    end, live = runs.script(code, max_workdir_bytes=8 * MIB)
    assert end.exit_code != 0
    assert (live.spec.work_dir / "big").stat().st_size <= 8 * MIB


def test_many_files_over_the_cap_end_the_run(runs: RunFactory) -> None:
    code = """
import itertools, time
for number in itertools.count():
    if number < 40:
        open(f'{number}.bin', 'wb').write(bytes(1 << 20))
    else:
        time.sleep(0.05)
"""
    end, _ = runs.script(code, max_workdir_bytes=20 * MIB)
    assert end.problem == f"the working directory grew over {20 * MIB} bytes"
    assert not end.stopped


def test_a_fork_bomb_is_bounded_and_nothing_of_it_stays(runs: RunFactory) -> None:
    live = runs.start({"main.py": FORK_BOMB}, pids_limit=40)
    live.await_output("\n")
    assert int(live.output.split("made")[1].split()[0]) <= 40
    began = time.monotonic()
    live.run.stop()
    end = live.wait()
    assert end.stopped
    assert time.monotonic() - began < 10


def test_a_task_that_ignores_sigterm_is_over_soon_and_keeps_its_files(runs: RunFactory) -> None:
    live = runs.start({"main.py": IGNORES_TERM})
    live.await_output("ready")
    began = time.monotonic()
    live.run.stop()
    live.run.stop()
    end = live.wait()
    assert time.monotonic() - began < 2.0
    assert (end.stopped, end.exit_code, end.problem) == (True, -signal.SIGKILL, "")
    assert (live.spec.work_dir / "partial.txt").read_text() == "half"


def test_a_task_may_tidy_up_when_it_is_stopped(runs: RunFactory) -> None:
    code = """
import signal, sys, time
def end(*_):
    print('tidied', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
time.sleep(600)
"""
    live = runs.start({"main.py": code})
    live.await_output("ready")
    live.run.stop()
    end = live.wait()
    assert (end.stopped, end.exit_code) == (True, 0)
    assert "tidied" in live.output


def test_stop_at_once_after_the_start_ends_the_run(runs: RunFactory) -> None:
    live = runs.start({"main.py": "import time; time.sleep(600)"})
    live.run.stop()
    assert live.wait().stopped


def test_stop_after_the_end_changes_nothing(runs: RunFactory) -> None:
    end, live = runs.script("pass")
    live.run.stop()
    assert not end.stopped


def test_a_run_that_takes_too_long_is_ended(runs: RunFactory) -> None:
    end, _ = runs.script("import time; time.sleep(600)", max_run_seconds=1)
    assert end.problem == "the task ran longer than 1 seconds"
    assert not end.stopped


def test_what_a_task_leaves_running_in_a_session_of_its_own_is_ended(runs: RunFactory) -> None:
    code = """
import os, subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
print('parent ends', flush=True)
"""
    end, live = runs.script(code)
    assert (end.exit_code, live.output) == (0, "parent ends\n")


def test_more_memory_than_allowed_in_one_process_fails(runs: RunFactory) -> None:
    end, live = runs.script("x = bytearray(400 << 20)", memory_bytes=128 * MIB)
    assert end.exit_code == 1
    assert "MemoryError" in live.output


def test_more_memory_than_allowed_in_many_processes_ends_the_run(runs: RunFactory) -> None:
    code = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        x = bytearray(b'x') * (60 << 20)
        time.sleep(600)
time.sleep(600)
"""
    end, _ = runs.script(code, memory_bytes=128 * MIB)
    assert end.problem == "the task used more memory than its 128 MiB"
    assert end.peak_memory_bytes > 100 * MIB


def test_memory_shared_by_forked_processes_counts_once(runs: RunFactory) -> None:
    code = """
import os, time
x = bytearray(b'x') * (80 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(1.5)
        os._exit(0)
for _ in range(4):
    os.wait()
"""
    end, _ = runs.script(code, memory_bytes=160 * MIB)
    assert (end.problem, end.exit_code) == ("", 0)


def test_usage_is_measured_while_it_runs_and_at_the_end(runs: RunFactory) -> None:
    code = "x = bytearray(b'x') * (50 << 20)\nprint('up', flush=True)\nwhile True: pass"
    live = runs.start({"main.py": code})
    wait_until(lambda: live.run.usage().memory_bytes > 50 * MIB, "the memory is seen")
    wait_until(lambda: live.run.usage().cpu_percent > 10, "the CPU is seen")
    live.run.stop()
    end = live.wait()
    assert end.peak_memory_bytes > 50 * MIB
    assert end.cpu_seconds > 0


def test_a_short_run_is_measured_too(runs: RunFactory) -> None:
    end, _ = runs.script("sum(range(3_000_000))")
    assert end.cpu_seconds > 0.02
    assert end.peak_memory_bytes > 5 * MIB


def test_a_run_outlives_the_thread_that_started_it(runs: RunFactory) -> None:
    started = []
    code = "import time; print('up', flush=True); time.sleep(1); print('done')"
    thread = threading.Thread(target=lambda: started.append(runs.start({"main.py": code})))
    thread.start()
    thread.join()
    end = started[0].wait()
    assert (end.exit_code, started[0].output) == (0, "up\ndone\n")


def test_discarding_gives_everything_back(runs: RunFactory) -> None:
    for _ in range(3):
        runs.runner.prepare(runs.spec({"main.py": "", "requirements.txt": ""})).discard()
    assert runs.script("pass")[0].exit_code == 0


def test_a_gpu_is_refused(runs: RunFactory) -> None:
    with pytest.raises(RunRefusedError, match="GPU"):
        runs.script("pass", gpu=True)
