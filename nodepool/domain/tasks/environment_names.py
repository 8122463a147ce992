"""Which environment variables a task's owner may not set, and why. Pure.

A name is refused where the run itself needs it, or where it would change what is loaded before a run is shut
into its sandbox: those who set up the sandbox have the run's environment already. What only changes the
owner's own program, such as PYTHONPATH or PIP_INDEX_URL, is the owner's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nodepool.domain.errors import InvalidInputError

MAX_NAME = 128
POOLS_PREFIX = "HIVEMIND_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_TOLD = 5
_MOST_SHOWN = 40

_FOLDER = "it is a folder of the run's sandbox"
_LOADER = "it changes what programs load before the run is shut into its sandbox"
_LIBRARY = "Python would not find its own library"
_REQUIREMENTS = "what requirements.txt installs is found by it"
_SHELL = "it changes how the shell starts the run"
_GPU = "the pool decides which GPUs a run gets"
WHY = {
    "PATH": "the run finds its interpreter by it",
    "HOME": _FOLDER,
    "TMPDIR": _FOLDER,
    "USER": "it names the sandbox's own user",
    "LOGNAME": "it names the sandbox's own user",
    "TASK_ID": "the pool sets it",
    "PYTHONUNBUFFERED": "the pool sets it, so that output comes as it is printed",
    "PYTHONHOME": _LIBRARY,
    "PYTHONEXECUTABLE": _LIBRARY,
    "PYTHONPLATLIBDIR": _LIBRARY,
    "PYTHONUSERBASE": _REQUIREMENTS,
    "PYTHONNOUSERSITE": _REQUIREMENTS,
    "PYTHONINSPECT": "the run's exit code would be lost",
    "SHELLOPTS": _SHELL,
    "BASHOPTS": _SHELL,
    "GLIBC_TUNABLES": _LOADER,
    "GCONV_PATH": _LOADER,
    "GETCONF_DIR": _LOADER,
    "LOCPATH": _LOADER,
    "AMD_VISIBLE_DEVICES": _GPU,
    "ASCEND_VISIBLE_DEVICES": _GPU,
    "HABANA_VISIBLE_DEVICES": _GPU,
}
WHY_OF_PREFIX = {
    "LD_": _LOADER,
    POOLS_PREFIX: "names that begin so are the pool's",
    "DOCKER_": "a run reaches no container engine",
    "NVIDIA_": _GPU,
}


def check_environment_names(names: Iterable[str], *, pools_too: bool = False) -> None:
    """Raises InvalidInputError, with each name that cannot be set and why.

    `pools_too`: the pool itself asks, and may set what is its own.
    """
    refused = [f"{_shown(name)} ({why})" for name in names if (why := why_refused(name, pools_too=pools_too))]
    if refused:
        more = f", and {len(refused) - _MOST_TOLD} more" if len(refused) > _MOST_TOLD else ""
        raise InvalidInputError(f"a task cannot set {', '.join(refused[:_MOST_TOLD])}{more}")


def _shown(name: str) -> str:
    told = str(name)
    return told if _NAME.fullmatch(told) else ascii(told[:_MOST_SHOWN])


def why_refused(name: str, *, pools_too: bool = False) -> str:
    """Empty where the variable may be set."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return (
            f"a name has at most {MAX_NAME} letters, digits and underscores, and does not begin with a digit"
        )
    if why := WHY.get(name):
        return why
    return next(
        (
            why
            for prefix, why in WHY_OF_PREFIX.items()
            if name.startswith(prefix) and not (pools_too and prefix == POOLS_PREFIX)
        ),
        "",
    )
