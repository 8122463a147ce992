"""How the tests are spread over processes: a module stays in one, and what takes long begins first.

xdist's own groups are no help: it writes them into the names of tests, which pytest 9.2 does not read back,
so that every test is a group. Then every process starts every module's pool, and agents of one name on one
Docker engine remove each other's containers.
"""

from __future__ import annotations

import functools
import re

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.environment import ROOT

# What these share is one engine, and agents that have its images, limits and names for themselves.
_OF_THE_ENGINE = re.compile(r"\b(docker_engine|test_image|docker_pool|mark\.docker)\b")
_ENGINE = "engine"
# By what they took; the others of a folder come as they come.
_LONGEST = (
    _ENGINE,
    "tests/integration/test_up.py",
    "tests/integration/test_agent_consumer.py",
    "tests/fault/test_network_cut.py",
    "tests/integration/test_prober.py",
    "tests/integration/test_simulate.py",
    "tests/e2e/test_allocation.py",
    "tests/fault/",
    "tests/e2e/",
    "tests/integration/",
)


@functools.cache
def group_of(module: str) -> str:
    """The name of what stays together with this module."""
    return _ENGINE if _OF_THE_ENGINE.search((ROOT / module).read_text()) else module


def module_of(item: pytest.Item) -> str:
    """Its file; what pytest calls its location takes longer to find than all that is done with it."""
    return item.nodeid.partition("::")[0]


def place_of(module: str) -> int:
    """The lower, the sooner."""
    group = group_of(module)
    return next((place for place, name in enumerate(_LONGEST) if group.startswith(name)), len(_LONGEST))


class ByModule(LoadScopeScheduling):
    """A process gets whole groups, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.split("::", 1)[0])


class LongestFirst:
    """A plugin; its hook comes after what shuffles the modules."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: place_of(module_of(item)))
