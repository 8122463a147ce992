"""Runs inside the sandbox: installs requirements.txt, then becomes the task's entry.

Given to the sandbox's own Python as text, whatever its version: the standard library only, and no
import of ours. Arguments: `network` or `offline`, `sh` or `python`, the entry and what it is given.
"""

from __future__ import annotations

import sys

# The task's own files must not stand in for the standard library here.
sys.path[:] = [path for path in sys.path if path]

import os  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402

REQUIREMENTS = "requirements.txt"
MARKER = ".satisfied"


def main() -> None:
    network, interpreter, *command = sys.argv[1:]
    folder = os.environ.pop("HIVEMIND_DEPS", "/deps")
    os.environ["PYTHONUSERBASE"] = folder
    # pip's --user leaves alone what is there already, and needs no virtual environment.
    os.environ["PATH"] = folder + "/bin:" + os.environ.get("PATH", "")
    if not (nothing_missing() or install(network=network == "network")):
        sys.exit(1)
    with open(folder + "/" + MARKER, "w"):  # noqa: PTH123
        pass
    program = sys.executable if interpreter == "python" else "/bin/sh"
    sys.stdout.flush()
    os.execv(program, [program, *command])  # noqa: S606


def nothing_missing() -> bool:
    """Whether every line is a plain name, without a wish for a version, of something that is here."""
    try:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  Python 3.8 and up
    except ImportError:
        return False
    with open(REQUIREMENTS, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in file]
    for line in filter(None, lines):
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*$", line):
            return False
        try:
            version(line)
        except PackageNotFoundError:
            return False
    return True


def install(*, network: bool) -> bool:
    environment = dict(os.environ, PIP_BREAK_SYSTEM_PACKAGES="1", PYTHONSAFEPATH="1")
    command = [sys.executable, "-m", "pip", "install", "--user", "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "-r", REQUIREMENTS]
    if not network:
        command.append("--no-index")
    return subprocess.call(command, env=environment) == 0


if __name__ == "__main__":
    main()
