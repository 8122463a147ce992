"""One class name has one meaning: nobody has to ask which `Limits` a signature means."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.support.environment import ROOT

_FOLDERS = "nodepool gateway dispatcher worker_agent hivemind local_pool benchmarks scripts"
# Made by the compiler of protocol files.
_GENERATED = ("nodepool_pb2.py", "nodepool_pb2_grpc.py")

# What programs call these in the SDK. Within the pool the words have a meaning of their own.
_OF_PROGRAMS = {"InvalidInputError", "Job", "Pool", "Task"}


def test_no_class_name_is_defined_twice() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for folder in _FOLDERS.split():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name in _GENERATED:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 300
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice.keys() - _OF_PROGRAMS == set(), twice
