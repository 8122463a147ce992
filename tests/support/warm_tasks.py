"""Programs for warm sandboxes: what a task sees of itself, what it finds of others, and what it leaves.

FACTS tells how a task was begun, for comparing it with a task in a container of its own. FOUND tells what a
task finds that others may have left. LEAVINGS are programs that leave something; after each FOUND must be as
after none. DOUBTS do to the sandbox what cannot be undone: it must be thrown away.
"""
# ruff: noqa: E501

from __future__ import annotations

FACTS = r"""
import json, os, resource, signal, sys
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
own = sys.modules["__main__"]
mounts = sorted(line.split()[1] + " " + line.split()[3].split(",")[0] for line in open("/proc/self/mounts"))
facts = {
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "groups": os.getgroups(),
    "no root": os.getuid() != 0 and os.getuid() == os.geteuid() == os.getgid(),
    "arguments": sys.argv,
    "original arguments": getattr(sys, "orig_argv", [])[1:],
    "main": {name: repr(value).split(" at 0x")[0] for name, value in sorted(own.__dict__.items()) if name.startswith("__")},
    "main is itself": own.__dict__ is globals(),
    "path": sys.path,
    "flags": repr(sys.flags),
    "executable": sys.executable,
    "warnings": sys.warnoptions,
    "modules": sorted(sys.modules),
    "streams": [(s.name, s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty()) for s in (sys.stdin, sys.stdout, sys.stderr)],
    "stdin": os.readlink("/proc/self/fd/0"),
    "outputs": [os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in (1, 2)],
    "output flags": [__import__("fcntl").fcntl(n, 3) for n in (0, 1, 2)],
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "umask": os.umask(0o022),
    "session of the first process": os.getsid(0),
    "leads its group": os.getpgid(0) == os.getpid(),
    "limits": [resource.getrlimit(n) for n in range(16)],
    "priority": os.getpriority(os.PRIO_PROCESS, 0),
    "cores": sorted(os.sched_getaffinity(0)),
    "last to be ended": open("/proc/self/oom_score_adj").read(),
    "status": {name: status.get(name) for name in ("SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Threads", "Umask", "TracerPid")},
    "name": status["Name"],
    "dumpable": os.stat("/proc/self/environ").st_uid == os.getuid(),
    "mounts": mounts,
    "host": os.uname().nodename,
    "interfaces": [name for _, name in __import__("socket").if_nameindex()],
    "processes that are allowed": [open(p).read() for p in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us") if os.path.exists(p)],
    "handlers": [str(signal.getsignal(n)) for n in (1, 2, 10, 13, 15, 17, 25)],
    "main thread": __import__("threading").current_thread() is __import__("threading").main_thread(),
    "work": oct(os.stat("/work").st_mode),
}
facts["status"].pop("SigQ")
print(json.dumps(facts, default=str))
"""

SHELL_FACTS = """
pwd
env | grep -v '^_=' | sort
id -G | wc -w
umask
ulimit -a
grep -E 'Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp:|Threads' /proc/self/status
readlink /proc/self/fd/0
echo "$0 $# $*"
cat /proc/self/oom_score_adj
"""

# Each ends in another way; what is shown and told must be the same as in a container of its own.
ENDINGS = {
    "a number": "raise SystemExit(7)",
    "words": "import sys; sys.exit('words')",
    "nothing": "import sys; sys.exit()",
    "an exception": "def deep():\n    raise ValueError('bad')\ntry:\n    deep()\nexcept ValueError as error:\n    raise KeyError('worse') from error",
    "a group": "raise ExceptionGroup('both', [ValueError(1), KeyError(2)])",
    "bad syntax": "print('never')\nif:\n",
    "bad bytes": "# -*- coding: utf-8 -*-\nx = 'ä'\nprint(ascii(x))",
    "an interrupt": "raise KeyboardInterrupt",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "its own code": "import os; os._exit(137)",
    "what is done at the end": "import atexit, threading, sys\natexit.register(print, 'at the end')\nthreading.Thread(target=lambda: print('thread')).start()\nsys.stdout.write('no newline ')",
    "a hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__, a[2].tb_frame.f_code.co_name)\n1/0",
    "children": "import multiprocessing as m\ndef f(x): return x * 2\nif __name__ == '__main__':\n    print(m.get_context('fork').Pool(2).map(f, [1, 2]), m.get_context('spawn').Pool(1).map(f, [3]))",
    "pickles": "import pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C())).__class__ is C, C.__module__)",
    "a future": "from __future__ import annotations\ndef f(x: undefined): pass\nprint(f.__annotations__)",
    "its own text": "import inspect, sys\ndef f():\n    return 1\nprint(inspect.getsource(f), __file__, sys.argv)",
    "a module of its own": "import other\nprint(other.__file__, other.__name__)",
    "a closed output": "import os\nos.close(1)\nos.close(2)\nraise SystemExit(4)",
    "many lines": "for n in range(20_000): print(n)",
}

FOUND = r"""
import json, os, resource, sys, fcntl, ctypes
def listing(folder):
    return sorted(os.listdir(folder))
found = {
    "processes": sorted(n for n in os.listdir("/proc") if n.isdigit() and n not in ("1", str(os.getpid()))),
    "/tmp": listing("/tmp"), "/dev/shm": listing("/dev/shm"), "/dev/mqueue": listing("/dev/mqueue"),
    "/work": listing("/work"), "work": (oct(os.stat("/work").st_mode), os.listxattr("/work")),
    "tmp": (oct(os.stat("/tmp").st_mode), oct(os.stat("/dev/shm").st_mode)),
    "sysv": [open("/proc/sysvipc/" + k).read().count("\n") for k in ("shm", "msg", "sem")],
    "sockets": {k: open("/proc/net/" + k).read().count("\n") for k in ("unix", "tcp", "udp")},
    "limits": [resource.getrlimit(n) for n in range(16)],
    "priority": os.getpriority(os.PRIO_PROCESS, 0), "cores": sorted(os.sched_getaffinity(0)),
    "umask": os.umask(0o022), "flags": [fcntl.fcntl(n, fcntl.F_GETFL) for n in (0, 1, 2)],
    "descriptors": listing("/proc/self/fd"), "environment": dict(os.environ), "path": sys.path,
    "modules": sorted(n for n in sys.modules), "patched": [json.dumps.__module__, hasattr(os, "left"), hasattr(sys, "left"), hasattr(__builtins__, "left")],
    "hooks": [sys.excepthook is sys.__excepthook__, len(sys.meta_path), len(sys.path_hooks), sys.gettrace() is None],
    "profile": [k for k in ("sitecustomize", "usercustomize") if k in sys.modules],
    "locks": open("/proc/locks").read().count("/work"),
    "scheduler": os.sched_getscheduler(0), "swappy": open("/proc/self/timerslack_ns").read() if os.access("/proc/self/timerslack_ns", os.R_OK) else "",
    "dump": open("/proc/self/coredump_filter").read(), "personality": ctypes.CDLL(None).personality(0xffffffff),
    "last to be ended": open("/proc/self/oom_score_adj").read(),
}
print(json.dumps(found))
"""

_CALM = "import ctypes, os, signal, socket, sys, time, threading, subprocess\nlibrary = ctypes.CDLL(None, use_errno=True)\n"

# What the sandbox gets rid of: it goes on with the next task.
LEAVINGS = {
    "files wherever one can": _CALM
    + r"""
for folder in ("/tmp", "/dev/shm", "/work", "/tmp/.hidden/deep/er", "/work/.git/x", "/tmp/.local/lib/python3/site-packages"):
    os.makedirs(folder, exist_ok=True)
    for name in ("left", "-rf", "new\nline", "\udcff", "left.pth", "sitecustomize.py", "usercustomize.py", "json.py"):
        open(os.path.join(folder, name), "w").write("import sys; sys.left = 1")
os.symlink("/etc/passwd", "/tmp/link"); os.symlink("/tmp", "/dev/shm/tmp"); os.mkfifo("/tmp/fifo")
os.mkdir("/tmp/closed"); open("/tmp/closed/file", "w").close(); os.chmod("/tmp/closed", 0)
os.mkdir("/dev/shm/closed"); os.mkdir("/dev/shm/closed/inner"); os.chmod("/dev/shm/closed", 0o111)
import socket as s
s.socket(s.AF_UNIX).bind("/tmp/socket")
user = "/tmp/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]
os.makedirs(user); open(user + "/evil.pth", "w").write("import sys; sys.left = 1")
open("/work/notes", "w").write("kept"); os.link("/work/notes", "/work/again")
""",
    "the working directory itself": _CALM
    + r"""
os.setxattr("/work", "user.left", b"1") if "user" in sys.argv else None
try:
    os.setxattr("/work", "user.left", b"1")
except OSError:
    pass
os.utime("/work", (1, 1)); os.chmod("/work", 0o777)
open("/work/unlinked", "w+b").write(b"x" * 100000); os.unlink("/work/unlinked")
""",
    "processes of every kind": _CALM
    + r"""
def daemon(act):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            act()
            os._exit(0)
        os._exit(0)
def sleeps():
    for n in range(1, 32):
        try: signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError): pass
    time.sleep(600)
def stops(): os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)
def hides(): library.prctl(4, 0, 0, 0, 0); library.prctl(15, b"init", 0, 0, 0); time.sleep(600)
def breeds():
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
def spins():
    while True: pass
for act in (sleeps, stops, hides, breeds, spins): daemon(act)
subprocess.Popen(["setsid", "sleep", "600"]) if os.path.exists("/usr/bin/setsid") else None
subprocess.Popen(["sh", "-c", "(sleep 600 &) ; trap '' TERM HUP INT; sleep 600 & exit 0"])
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if os.fork() == 0:
    library.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
""",
    "IPC objects": _CALM
    + r"""
assert library.shmget(77, 65536, 0o1666) >= 0 and library.msgget(78, 0o1666) >= 0 and library.semget(79, 3, 0o1666) >= 0
assert library.shmget(0, 4096, 0o1600) >= 0
one = library.shmget(81, 65536, 0o1666); library.shmat.restype = ctypes.c_void_p; library.shmat(one, None, 0)
assert library.mq_open(b"/left", 0o102, 0o600, None) >= 0, os.strerror(ctypes.get_errno())
library.sem_open(b"/left", 0o100, 0o600, 1) if hasattr(library, "sem_open") else None
from multiprocessing import shared_memory
shared_memory.SharedMemory("left", True, 4096)._name
os._exit(0)
""",
    "sockets": _CALM
    + r"""
kept = []
for name in ("\0left", "\0" + "x" * 50):
    one = socket.socket(socket.AF_UNIX); one.bind(name); one.listen(); kept.append(one)
listening = socket.create_server(("127.0.0.1", 7777)); kept.append(listening)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 7778)); kept.append(udp)
left, right = socket.socketpair()
socket.send_fds(left, [b"x"], [right.fileno(), left.fileno()])
if os.fork() == 0: time.sleep(600)
""",
    "the interpreter": _CALM
    + r"""
import gc, json, builtins, site, random
json.dumps = lambda *a, **k: "patched"; os.left = sys.left = builtins.left = 1
os.listdir = os.read = os.fork = os.waitpid = lambda *a: (_ for _ in ()).throw(OSError("patched"))
sys.meta_path.clear(); sys.path_hooks.clear(); sys.modules["json"] = None; sys.path[:] = ["/tmp"]
sys.excepthook = None; sys.settrace(lambda *a: None); sys.setrecursionlimit(60)
os.environ["LEFT"] = "1"; os.environ["PYTHONPATH"] = "/tmp"; os.putenv("LEFT2", "1"); os.umask(0o777)
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGCHLD, signal.SIG_IGN)
import ctypes as c
id(1); c.memset(id(257) + 24, 0xff, 1)
gc.disable(); random.seed(1)
os.kill(os.getpid(), 9)
""",
    "its own attributes": _CALM
    + r"""
import resource, fcntl
for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_STACK, resource.RLIMIT_CPU):
    resource.setrlimit(n, (60, 60))
os.nice(3); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); library.personality(0x0040000)
os.setpriority(os.PRIO_PGRP, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND); fcntl.fcntl(2, fcntl.F_SETOWN, 1)
try: fcntl.fcntl(1, 1031, 4096)
except OSError: pass
os.fchmod(1, 0); open("/proc/self/coredump_filter", "w").write("0"); open("/proc/self/oom_score_adj", "w").write("1000")
signal.setitimer(signal.ITIMER_REAL, 600); signal.alarm(600); signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
file = open("/work/locked", "w"); fcntl.flock(file, fcntl.LOCK_EX)
library.mlockall(1); library.inotify_init(); library.timerfd_create(1, 0); library.memfd_create(b"left", 0)
os.dup2(1, 999 if resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 999 else 50)
os.chdir("/tmp")
""",
    "attacks on the first process": _CALM
    + r"""
import struct
def tried(call):
    try: return call()
    except OSError as error: return error.errno
done = {}
for n in range(1, 65):
    if n not in (17,): tried(lambda: os.kill(1, n))
for _ in range(1000): tried(lambda: os.kill(1, signal.SIGCHLD))
done["trace"] = library.ptrace(16, 1, 0, 0)
for name in ("fd/0", "fd/1", "mem", "environ", "maps", "root", "cwd", "exe", "fdinfo", "oom_score_adj", "comm", "coredump_filter", "timerslack_ns", "clear_refs", "stack", "syscall", "attr/current"):
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        path = "/proc/1/" + name
        descriptor = tried(lambda: os.open(path, mode | os.O_NONBLOCK))
        if name in ("fd/0", "fd/1", "mem", "environ", "maps", "fdinfo"):
            assert descriptor in (13, 1, 21, 2), (name, mode, descriptor)
assert tried(lambda: os.listdir("/proc/1/fd")) == 13
pidfd = os.pidfd_open(1)
assert library.syscall(438, pidfd, 0, 0) == -1, "pidfd_getfd"
local = (ctypes.c_void_p * 2)(0, 8); assert library.process_vm_writev(1, local, 1, local, 1, 0) == -1
signal.pidfd_send_signal(pidfd, signal.SIGKILL); signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
for tool in ("su", "mount", "newgrp", "passwd", "chsh"):
    try: subprocess.run([tool], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired): pass
for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cgroup.procs", "/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
    for flag in (os.O_WRONLY,): assert not isinstance(tried(lambda: os.open(path, flag)), int) or tried(lambda: os.open(path, flag)) in (13, 30, 2, 1), path
assert library.syscall(248 if os.uname().machine == "x86_64" else 217, b"user", b"left", b"x", ctypes.c_size_t(1), -3) == -1
assert tried(lambda: os.setpgid(1, 0)) in (1, 3, 13)
os.write(1, b"E\0\0\0\x071 0 0 0" * 3 + b"H\0\0\0\x011" + b"C\0\0\0\0"); os.write(2, b"C\0\0\0\0" * 1000)
print("attacked", flush=True)
""",
}

# What cannot be undone, or need not be: the sandbox goes.
DOUBTS = {
    "limits of the first process": "import resource\nresource.prlimit(1, resource.RLIMIT_NOFILE, (99, 99))",
    "priority of the first process": "import os\nos.setpriority(os.PRIO_USER, os.getuid(), os.getpriority(os.PRIO_PROCESS, 0) + 2)",
    "scheduling of the first process": "import os\nos.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0))",
    "a connection that has not ended": (
        "import socket\none = socket.create_server(('127.0.0.1', 0))\n"
        "two = socket.create_connection(one.getsockname())\nthree, _ = one.accept()\n"
        "three.close()\ntwo.close()"
    ),
    "a deep folder": "import os\nfor n in range(3000):\n    os.mkdir('/tmp/x' if n == 0 else 'x')\n    os.chdir('/tmp/x' if n == 0 else 'x')",
}
