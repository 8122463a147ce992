"""The first process of a sandbox that is kept warm: begins tasks, ends all they left, and tells of it.

Given to the image's own Python (3.8 and up) as text: the standard library only, and no import of
ours. It never reads what a task is given, which the task's own process takes from the same line, and a task
has neither its memory nor its descriptors: it is not dumpable, and the first of its namespace, which no
signal from inside ends. A task's processes have its user, so what that user may do to it (limits, priority,
cores) is compared with how it began before the next task comes. Any doubt ends the sandbox.

Commands are single bytes: R (run; the new process reads the rest), T (SIGTERM to the task), C (clean). What
it tells is frames: a letter, four bytes of length, and that many bytes.
"""
# ruff: noqa: PTH123, PTH208, UP031, S102, S606

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys

from worker_agent.runners.warm_clean import WORK, cleaned, contents, end_all, state

_PIECE = 4091  # with its head what a pipe takes at once
_PR_SET_DUMPABLE = 4
# When memory runs out a task goes before this process.
_FIRST_TO_BE_ENDED = "500"
# Of a shell on the way here; a shell that is started sets its own.
_SHELLS = ("PWD", "OLDPWD", "SHLVL", "_")
# Variables that an interpreter, its loader or its C library read when they begin.
_READ_AT_START = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_", "LANG", "TZ")
_HARMLESS = {"PYTHONUNBUFFERED": "1"}
_library = ctypes.CDLL(None, use_errno=True)


_at_start: set[str] = set()
_base: dict[str, str] = {}
script = ""


def main() -> None:
    """Returns in the process of a script of Python."""
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 2)
    os.close(nothing)
    os.chdir("/")
    os.umask(0o022)
    _library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # With a handler a signal from inside would reach this process; that of ended children may.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    awake, wakes = os.pipe()
    for end in (awake, wakes):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    before, cores = state(), os.sched_getaffinity(0)
    tell(b"H", b"%d" % os.getpid())
    while True:
        command = os.read(0, 1)
        if command == b"R":
            if run_task(awake):
                return
        elif command == b"C":
            tell(b"C", cleaned(before, cores).encode("utf-8", "replace")[:500])
        elif command != b"T":  # that came when the task had just ended
            os._exit(0)  # whoever runs this has gone


def tell(kind: bytes, data: bytes = b"") -> None:
    message = kind + len(data).to_bytes(4, "big") + data
    while message:
        message = message[os.write(1, message) :]


# -- a task ------------------------------------------------------------------------------------------
def run_task(awake: int) -> bool:
    """Until nothing of the task lives, and all it put out is told. Whether this is a script's process."""
    output, theirs = os.pipe()
    ready, given = os.pipe()
    before, kills = processor_seconds(), memory_kills()
    task = os.fork()
    if not task:
        become(theirs, given)
        return True
    os.close(theirs)
    os.close(given)
    # The line is the task's until it has read what is for it.
    if not os.read(ready, 1):
        os._exit(1)
    os.close(ready)
    code, largest = watched(task, output, awake)
    largest = max(largest, end_all())
    while True:
        data = os.read(output, _PIECE)
        if not data:
            break
        tell(b"O", data)
    os.close(output)
    used = int(1e6 * max(0.0, processor_seconds() - before))
    tell(b"E", b"%d %d %d %d" % (code, used, largest, memory_kills() - kills))
    return False


def watched(task: int, output: int, awake: int) -> tuple[int, int]:
    """Passes its output on until it has ended: its exit code, and the largest process yet."""
    largest = 0
    code: int | None = None
    sources = [0, awake, output]
    while code is None:
        told = select.select(sources, [], [])[0]
        if output in told:
            # No output is taken that could not be told at once, or a command would have to wait.
            if not select.select([], [1], [], 0)[1]:
                told = select.select([0, awake], [1], [])[0]
            elif data := os.read(output, _PIECE):
                tell(b"O", data)
            else:
                sources.remove(output)
        if 0 in told:
            if os.read(0, 1) != b"T":
                os._exit(0)
            os.kill(task, signal.SIGTERM)
        if awake in told:
            while drained(awake):
                pass
            code, largest = reaped(task, largest)
    return code, largest


def drained(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 512)
    except BlockingIOError:
        return b""


def reaped(task: int, largest: int) -> tuple[int | None, int]:
    """The task's exit code as a shell tells it, when it has ended; and the largest process yet."""
    code = None
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return code, largest
        if not pid:
            return code, largest
        largest = max(largest, used.ru_maxrss)
        if pid == task:
            code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def processor_seconds() -> float:
    """Of all but this process: as the control group counts, or what was waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    for path, unit, name in (
        ("/sys/fs/cgroup/cpu.stat", 1e6, "usage_usec"),
        ("/sys/fs/cgroup/cpuacct/cpuacct.usage", 1e9, ""),
    ):
        for line in contents(path).splitlines():
            if line.startswith(name):
                return int(line.split()[-1]) / unit - own.ru_utime - own.ru_stime
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return below.ru_utime + below.ru_stime


def memory_kills() -> int:
    """How often memory ran out in this sandbox so far."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        for line in contents(path).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def become(output: int, given: int) -> None:
    """In the new process. Returns to the end of this program where a script of Python is to go on."""
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        words, environment, forked = read_job()
        nothing = os.open("/dev/null", os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.write(given, b"1")
        os.closerange(3, 1024)
        _library.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(_FIRST_TO_BE_ENDED)
        os.chdir(WORK)
        wanted = dict(_base)
        wanted.update(environment)
        if forked and fits_interpreter(environment):
            os.environ.clear()
            os.environ.update(wanted)
            begin_script(words[-forked:])
            return
        for name in _SHELLS:
            if name not in environment:
                wanted.pop(name, None)
        for number in ("SIGPIPE", "SIGXFSZ", "SIGINT"):
            signal.signal(getattr(signal, number), signal.SIG_DFL)
        try:
            os.execvpe(words[0], words, wanted)
        except OSError as error:
            os.write(2, ("exec %s failed: %s\n" % (words[0], error.strerror)).encode())
            os._exit(127)
    except Exception as error:  # noqa: BLE001
        os.write(2, ("the task could not begin: %s\n" % error).encode())
        os._exit(127)


def read_job() -> tuple[list[str], dict[str, str], int]:
    """Its command, its variables, and how many words of the command a script of Python would get."""
    size = int.from_bytes(exactly(4), "big")
    head, _, text = exactly(size).partition(b"\n")
    count, variables, forked = (int(number) for number in head.split())
    parts = [os.fsdecode(part) for part in text.split(b"\0")]
    pairs = parts[count : count + variables]
    return parts[:count], dict(pair.split("=", 1) for pair in pairs), forked


def exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(1)
        data += piece
    return data


# -- a script in an interpreter that has begun already ------------------------------------------------
def fits_interpreter(environment: dict[str, str]) -> bool:
    """Whether an interpreter that began with these variables would be as this one is."""
    if len(os.listdir("/proc/self/task")) > 1:  # of what the image begins by itself
        return False
    return not any(
        name.startswith(_READ_AT_START) and _HARMLESS.get(name, _base.get(name)) != value
        for name, value in environment.items()
    )


def begin_script(words: list[str]) -> None:
    """The last step before the script: all as if this interpreter had been started for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in set(sys.modules) - _at_start:
        del sys.modules[name]
    sys.path_importer_cache.pop("/", None)
    sys.argv[:] = words
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = ["python", *words]
    sys.path.insert(0, WORK)
    global script  # noqa: PLW0603
    script = words[0] if sys.version_info < (3, 9) else WORK + "/" + words[0]


def run_script(path: str) -> None:
    # As an interpreter has it, without what importlib would bring in.
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
    own = type(sys)("__main__")
    sys.modules["__main__"] = own
    names = own.__dict__
    names.update(
        __loader__=loader("__main__", path),
        __annotations__={},
        __builtins__=sys.modules["builtins"],
        __file__=path,
        __cached__=None,
    )
    failed = None
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, names)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001
        failed = error
    if failed is not None:
        show(failed)


def show(error: BaseException) -> None:
    """As an interpreter shows what its script did not catch: without what is ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is run_script.__code__:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    try:
        sys.excepthook(type(error), error, trace)
    except Exception:  # noqa: BLE001
        sys.__excepthook__(type(error), error, trace)
    if isinstance(error, KeyboardInterrupt):
        import signal  # noqa: PLC0415

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
    if script:
        run_script(script)
