"""Containers that are kept warm beside bare `docker run`, in the same rounds: `python -m benchmarks.warm`.

Prints, for one small task and for many at the same concurrency, what bare `docker run` takes, the runner in
a container of its own, in one that was begun ahead, and in one that is used again; and the ratios. A figure
of a machine with other work on it says little: the ratio within a round is what counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bare import NODE_ID, RunnerKind, Work, bare_first_line_ms, close, docker_kind
from benchmarks.pool import BenchmarkError
from worker_agent.runners.base import RunRefusedError, RunSpec, SandboxReuse
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.warm_pool import WarmOptions

AIM_ONE, AIM_MANY = 0.15, 10.0
_WAIT_SECONDS = 60.0
_AGAIN = SandboxReuse("bench", 100_000, 3600.0)


class WarmWork:
    """One runner that keeps sandboxes warm, used one way."""

    def __init__(self, plain: RunnerKind, folder: Path, sandboxes: int, again: SandboxReuse | None) -> None:
        self._runner = DockerRunner(f"{NODE_ID}-{folder.name}", WarmOptions(folder / "warm", sandboxes))
        self.kind = replace(plain, runner=self._runner, folder=folder)
        self._work = Work(self.kind)
        self._sandboxes, self._again = sandboxes, again

    def spec(self) -> RunSpec:
        return replace(self._work.spec(), node_id=f"{NODE_ID}-{self.kind.folder.name}", again=self._again)

    def run(self, spec: RunSpec) -> None:
        end = self._runner.prepare(spec).start(lambda _data: None).wait()
        shutil.rmtree(spec.work_dir)
        if end.exit_code or end.problem:
            raise BenchmarkError(f"the script ended with {end.exit_code}: {end.problem}")

    def settle(self) -> None:
        """All that are to wait do, and with reuse one has run a task."""
        ends = time.monotonic() + _WAIT_SECONDS
        while len(self._runner.waiting) < self._sandboxes:
            if time.monotonic() > ends:
                raise BenchmarkError("no warm sandbox came")
            time.sleep(0.01)

    def close(self) -> None:
        self._runner.close()


def one_ms(work: WarmWork) -> float:
    spec = work.spec()
    work.settle()
    began = time.perf_counter()
    work.run(spec)
    return (time.perf_counter() - began) * 1e3


def many_seconds(call: Callable[[], object], count: int, at_once: int) -> float:
    with ThreadPoolExecutor(at_once) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: call(), range(count)))
        return time.perf_counter() - began


def measure(rounds: int, tasks: int, at_once: int, folder: Path) -> dict[str, object]:
    plain = docker_kind(folder / "plain")
    works: dict[str, WarmWork] = {}
    try:
        if plain.bare_command is None:
            raise BenchmarkError("there is no docker command to compare with")
        for name, again in (("begun ahead", None), ("used again", _AGAIN)):
            place = folder / name.replace(" ", "-")
            place.mkdir(mode=0o711)
            works[name] = WarmWork(plain, place, 2 * at_once, again)
            for _ in range(3 * at_once):
                works[name].run(works[name].spec())
        return {
            "one task, ms": _one(plain, works, rounds),
            f"{tasks} tasks, {at_once} at once, s": _many(plain, works, rounds, tasks, at_once),
        }
    finally:
        for work in works.values():
            work.close()
        close(plain)


def _one(plain: RunnerKind, works: dict[str, WarmWork], rounds: int) -> dict[str, float]:
    bare = Work(plain)
    taken: dict[str, list[float]] = {name: [] for name in ("bare docker run", *works)}
    for _ in range(rounds):
        taken["bare docker run"].append(bare_first_line_ms(plain, bare))
        for name, work in works.items():
            taken[name].append(one_ms(work))
    return {name: median(values) for name, values in taken.items()}


def _many(
    plain: RunnerKind, works: dict[str, WarmWork], rounds: int, tasks: int, at_once: int
) -> dict[str, float]:
    bare = Work(plain)
    few = max(at_once, tasks // 8)  # bare containers take long; what counts is each
    taken: dict[str, list[float]] = {name: [] for name in ("bare docker run", *works)}
    for _ in range(max(1, rounds // 5)):
        seconds = many_seconds(lambda: bare_first_line_ms(plain, bare), few, at_once)
        taken["bare docker run"].append(seconds * tasks / few)
        for name, work in works.items():
            specs = [work.spec() for _ in range(tasks)]
            work.settle()
            taken[name].append(many_seconds(partial(_next_of, work, iter(specs)), tasks, at_once))
    return {name: median(values) for name, values in taken.items()}


def _next_of(work: WarmWork, specs: Iterator[RunSpec]) -> None:
    work.run(next(specs))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hivemind-warm-"))
    folder.chmod(0o711)
    try:
        found = measure(given.rounds, given.tasks, given.at_once, folder)
    except (BenchmarkError, RunRefusedError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found) if given.json else _shown(found))
    return 0


def _shown(found: dict[str, object]) -> str:
    lines = []
    for what, values in found.items():
        assert isinstance(values, dict)
        bare = values["bare docker run"]
        lines.append(what)
        lines += [
            f"  {name:16} {value:10.2f}   {value / bare:6.3f} of bare" for name, value in values.items()
        ]
    lines.append(f"aims: one task used again {AIM_ONE:g} of bare; many used again {1 / AIM_MANY:g} of bare")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
