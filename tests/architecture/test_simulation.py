"""What the simulation of cheaters publishes is the pool's: it reaches no rule that the pool does not reach.

A rule is a function or class of `nodepool.domain`. Reached is what the pool's own rooms name, and what those
rules name in turn. So a rule that nothing but the simulation calls shows here, whoever wrote it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.support.environment import ROOT

DOMAIN = "nodepool.domain"
POOL = ("gateway", "dispatcher", "nodepool/workflows", "nodepool/stores")
SIMULATION = ("benchmarks/cheating", "benchmarks/cheaters.py")
DECIDE = f"{DOMAIN}.ends.attempt_end.decide"


def sources(places: Iterable[str]) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def rules() -> dict[str, ast.AST]:
    """Every function, class and value of the domain's modules, by its full name."""
    found: dict[str, ast.AST] = {}
    for path in sources(["nodepool/domain"]):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in _names_of(node):
                found[f"{module_of(path)}.{name}"] = node
    return found


def _names_of(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def meanings(tree: ast.Module, module: str) -> dict[str, str]:
    """What names of this module mean: its own, and those it imports."""
    known = {name: f"{module}.{name}" for node in tree.body for name in _names_of(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            known |= {it.asname or it.name: f"{node.module}.{it.name}" for it in node.names}
    return known


def named(node: ast.AST, known: dict[str, str]) -> set[str]:
    """The rules that this piece of code names."""
    found = set()
    for it in ast.walk(node):
        if isinstance(it, ast.Name):
            found.add(known.get(it.id, ""))
        elif isinstance(it, ast.Attribute) and isinstance(it.value, ast.Name):
            found.add(f"{known.get(it.value.id, '')}.{it.attr}")
    return found & rules().keys()


def named_in(places: Iterable[str]) -> set[str]:
    found = set()
    for path in sources(places):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= named(tree, meanings(tree, module_of(path)))
    return found


@cache
def named_by_rules() -> dict[str, frozenset[str]]:
    found = {}
    for path in sources(["nodepool/domain"]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = meanings(tree, module_of(path))
        for node in tree.body:
            for name in _names_of(node):
                found[f"{module_of(path)}.{name}"] = frozenset(named(node, known))
    return found


def reached(from_places: Iterable[str]) -> set[str]:
    waiting, found = named_in(from_places), set()
    while waiting:
        rule = waiting.pop()
        found.add(rule)
        waiting |= named_by_rules()[rule] - found
    return found


def test_the_simulation_reaches_no_rule_that_the_pool_does_not_reach() -> None:
    only_simulated = named_in(SIMULATION) - reached(POOL)
    assert sorted(only_simulated) == [], "rules that the pool does not follow"


def test_both_decide_the_end_of_a_run_with_the_same_function() -> None:
    assert DECIDE in named_in(SIMULATION)
    assert DECIDE in named_in(["nodepool/workflows"])


def test_the_three_rules_that_were_only_simulated_once_are_the_pools() -> None:
    """One task at a time, holding back, and what a recalled run is paid."""
    wanted = {f"{DOMAIN}.trust.audits.{name}" for name in ("one_at_a_time", "holds_back", "pays_recalled")}
    assert wanted <= reached(POOL)
    # Both come to them by what decides, and by the fleet that the dispatchers place on.
    assert wanted <= reached(SIMULATION)
    # And not by chance: without what ends runs, the pool would not hold back or pay so.
    assert wanted - reached(["gateway/auth"]) == wanted


def test_a_rule_that_only_the_simulation_follows_is_found() -> None:
    without_ends = reached(["nodepool/stores/redis"])
    assert DECIDE in named_in(SIMULATION) - without_ends
    text = "from nodepool.domain.trust import audits as rules\nrules.pause_seconds(1)\n"
    tree = ast.parse(text)
    assert named(tree, meanings(tree, "somewhere")) == {f"{DOMAIN}.trust.audits.pause_seconds"}
