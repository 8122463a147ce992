"""How far a run is kept from the agent that started it, and from everything else on its machine. Pure.

The runner says which level this machine reaches, having tried it. The pool decides with it whose tasks a
node may take. The order of the members is the order of strength.
"""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    CONTAINER = "container"  # a container of an engine
    BUBBLEWRAP = "bubblewrap"  # namespaces of its own; of files only what it needs
    USER = "user"  # a user of its own, with /tmp, /var/tmp and shared memory of its own
    NONE = "none"  # the agent's own user: a run could read what the agent can


def keeps_strangers_out(level: Isolation) -> bool:
    """Whether a run of anybody can read no process and no file of the agent, nor of another run."""
    return level is not Isolation.NONE
