"""Gives nodes tasks with known answers, and judges what comes back; a part of the sweep.

A node is probed when it has registered, and at times that nobody can foresee after that, every PROBE_HOURS
on the average, when nothing else runs there. A node that is never idle is probed beside its work when another
such time has passed. What is measured, and why so, is in `benchmark_probe`; how a probe looks like any task,
in `dispatcher.sweep.probe_disguise`.
"""

from __future__ import annotations

import logging
import secrets
from io import BytesIO

from dispatcher.context import Dispatcher, open_files
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep import probe_disguise
from nodepool.domain.errors import CorruptFileError, NodePoolError, NotFoundError
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.tasks.states import FINAL_TASK_STATES, AttemptState, TaskState
from nodepool.domain.trust import benchmark_probe
from nodepool.domain.trust.benchmark_probe import DEFAULT_RUN_MEMORY_BYTES, Probe, ProbeVerdict
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import probes as probe_store, tasks as task_store
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.node_rows import DueNode
from nodepool.stores.sql.probes import Closing, NewProbe
from nodepool.stores.sql.task_rows import OpenProbe
from nodepool.workflows import probe_verdict
from nodepool.workflows.decision import deciding

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_MOST_OPEN = 8
_MOST_LOOKED_AT = 200
_SECONDS_PER_HOUR, _SECONDS_PER_MINUTE = 3600.0, 60.0
# A probe that finds no moment is taken back.
_PATIENCE_SECONDS = 30.0
# After one that says too little, or something bad, the next comes so much sooner.
_SOONER = 24.0
# Of a busy node no less than this share of its score is probed.
_LEAST_SHARE = 4
# A result with an answer is small.
_MAX_RESULT_BYTES = 4 << 20
_MOST_SECONDS = benchmark_probe.MAX_MINUTES * _SECONDS_PER_MINUTE
# Of the mean; between them the pause is drawn so that the time that has passed tells nothing.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 3.0
_SHAPES = 50
_MIB_PER_GIB_BITS, _BYTES_PER_GIB_BITS = 10, 30


class Prober:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
        self._dispatcher = dispatcher
        self._placement_loop = placement_loop
        self._files: FileStore | None = None
        self._random = secrets.SystemRandom()
        self._next_at = float("-inf")

    @property
    def _period_seconds(self) -> float:
        return self._dispatcher.settings.probe_hours * _SECONDS_PER_HOUR

    def look(self) -> None:
        """About once a second. Raises UnavailableError."""
        now = self._dispatcher.clock()
        if self._period_seconds <= 0 or now < self._next_at:
            return
        self._next_at = now + _LOOK_SECONDS
        opened = self._dispatcher.database.read(lambda c: probe_store.opened(c, _MOST_OPEN))
        still = [probe for probe in opened if not self._follow(probe, now)]
        if len(still) < _MOST_OPEN:
            self._begin(_MOST_OPEN - len(still), now)

    # -- beginning ---------------------------------------------------------------------------------------
    def _begin(self, most: int, now: float) -> None:
        dispatcher = self._dispatcher
        due = dispatcher.database.read(lambda c: probe_store.due(c, now, _MOST_LOOKED_AT))
        if not due:
            return
        late = dispatcher.settings.node_late_seconds
        views = dispatcher.registry.views([node.id for node in due], late)
        ready = [
            (node, view)
            for node, view in zip(due, views, strict=True)
            if view is not None and view.online and self._is_time(node, view, now)
        ]
        for node, view in ready[:most]:
            self._submit(node, view, now)

    def _is_time(self, node: DueNode, view: NodeView, now: float) -> bool:
        if view.draining:  # or paused, or without its engine
            return False
        return view.reserved.tasks == 0 or now - node.probe_due_at > self._period_seconds

    def _submit(self, node: DueNode, view: NodeView, now: float) -> None:
        dispatcher, settings = self._dispatcher, self._dispatcher.settings
        belief = node.belief
        score = probe_disguise.round_as_people_do(
            max(belief.score - view.reserved.cpu_score, belief.score // _LEAST_SHARE, 1)
        )
        seed, work = secrets.token_hex(32), score * belief.seconds
        chains = benchmark_probe.chains_of(node.cpu_cores)
        recent = dispatcher.database.read(lambda c: probe_store.recent_tasks(c, _SHAPES))
        shape = probe_disguise.shape_of(
            recent,
            self._random,
            now=now,
            memory_gb=max(0, (view.capacity.memory_mb - view.reserved.memory_mb) >> _MIB_PER_GIB_BITS),
            default_minutes=settings.default_max_minutes,
        )
        probe = Probe.of(seed, work=work, chains=chains)
        package = probe_disguise.package(probe, shape, self._random, now)
        new = NewProbe(
            task_id=shape.task_id,
            node=node,
            score=score,
            chains=chains,
            seed=seed,
            work=work,
            image=settings.default_image,
            memory_gb=shape.memory_gb,
            max_minutes=max(shape.max_minutes, benchmark_probe.MAX_MINUTES),
            package_sha256=self._store().put_package(package),
            package_bytes=len(package),
        )
        again = now + self._period_seconds
        if dispatcher.database.write(lambda c: probe_store.add(c, new, due_again=again, now=now)):
            log.info("node %s is probed: %s", node.id, new.task_id)
            self._placement_loop.hint(new.task_id)

    # -- what came of it ---------------------------------------------------------------------------------
    def _follow(self, probe: OpenProbe, now: float) -> bool:
        """True when it is over."""
        if probe.state in FINAL_TASK_STATES:
            self._close(probe, now)
            return True
        waits_too_long = probe.state == TaskState.QUEUED and (
            _is_handed_back(probe) or now - probe.created_at > _PATIENCE_SECONDS
        )
        # A probe does not keep a node that wants to go, nor one that will never answer.
        runs = probe.attempt_state is AttemptState.RUNNING
        too_long = runs and now - (probe.started_at or now) > _MOST_SECONDS
        if not probe.stop_requested and (waits_too_long or too_long or probe.draining or not probe.active):
            self._dispatcher.database.write(
                lambda c: task_store.request_stop(c, probe.task_id, now), sharing=ledger_store.TOGETHER
            )
        return False

    def _close(self, probe: OpenProbe, now: float) -> None:
        dispatcher = self._dispatcher
        closing = self._judged(probe, now)
        by = deciding(dispatcher.settings, now)
        closed = dispatcher.database.write(
            lambda c: probe_verdict.close(c, probe, closing, by), sharing=ledger_store.TOGETHER
        )
        self._tidy_up(probe)
        if closed is None:
            return
        self._placement_loop.hint(*(run.task_id for run in closed.added))
        log.info("the probe of node %s: %s after %.1f s", probe.node_id, closing.verdict,
                 probe.ran_seconds)  # fmt: skip
        if closing.belief.measured != probe.measured_cpu_score:
            log.warning("node %s claims cpu_score %d and is believed %d now", probe.node_id,
                        probe.cpu_score, closing.belief.score)  # fmt: skip
            dispatcher.lifecycle.sync_node(probe.node_id)
        if closing.engine_shown is not None and closing.engine_shown != probe.engine_shown:
            word = "runs tasks in containers" if closing.engine_shown else "shows no working container engine"
            log.info("node %s %s", probe.node_id, word)
            dispatcher.lifecycle.sync_node(probe.node_id)
        if closing.verdict is ProbeVerdict.WRONG:  # its records have changed, and it may have to pause
            dispatcher.lifecycle.sync_node(probe.node_id)
        for owner_id in closed.tiers_changed:
            dispatcher.lifecycle.sync_nodes_of(owner_id)

    def _judged(self, probe: OpenProbe, now: float) -> Closing:
        before = probe.belief
        seconds = probe.ran_seconds
        answer = self._answer(probe)
        verdict = self._verdict(probe, seconds, answer)
        others = verdict is ProbeVerdict.SILENT and self._dispatcher.database.read(
            lambda c: probe_store.answered_elsewhere(c, probe.owner_id, now - 2 * self._period_seconds)
        )
        judged = benchmark_probe.judge(
            before, verdict, work=probe.work, seconds=seconds, others_answer=others
        )
        change = None
        if judged.false_claim:
            words = (
                f"it claims cpu_score {before.claimed}, "
                f"and {benchmark_probe.SLOW_TIMES} probes found no more than"
            )
            change = probe_store.change_of(probe, Cause.FALSE_CLAIM, f"{words} {judged.belief.measured}")
        elif verdict in _CAUSES:
            change = probe_store.change_of(probe, _CAUSES[verdict], MOVES[_CAUSES[verdict]].meaning)
        pause = self._period_seconds / (1.0 if verdict is ProbeVerdict.RIGHT else _SOONER)
        return Closing(
            verdict=verdict,
            belief=judged.belief,
            due_at=now + pause * min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, self._random.expovariate(1.0))),
            engine_shown=self._engine_shown(probe, verdict, answer),
            changes=(change,) if change else (),
        )

    def _verdict(self, probe: OpenProbe, seconds: float, answer: bytes | None) -> ProbeVerdict:
        score = min(probe.claimed_cpu_score, probe.belief.score)
        if probe.state == TaskState.SUCCEEDED:
            if answer is None:
                return ProbeVerdict.SILENT
            draws = [self._random.random() for _ in range(benchmark_probe.CHECKED_SEGMENTS)]
            if not _expected(probe).is_right(answer, draws):
                return ProbeVerdict.WRONG
            return (
                ProbeVerdict.SLOW
                if benchmark_probe.is_slow(probe.work, seconds, score)
                else ProbeVerdict.RIGHT
            )
        if seconds >= _MOST_SECONDS and benchmark_probe.is_slow(probe.work, seconds, score):
            return ProbeVerdict.SLOW
        withdrawn = probe.state == TaskState.STOPPED and not _is_handed_back(probe)
        return ProbeVerdict.WITHDRAWN if withdrawn else ProbeVerdict.SILENT

    def _answer(self, probe: OpenProbe) -> bytes | None:
        """None where the pool has lost what the node returned."""
        if not probe.result_attempt or probe.result_bytes > _MAX_RESULT_BYTES:
            return b""
        try:
            result = self._store().result_bytes(probe.result_attempt)
        except (NotFoundError, CorruptFileError) as error:
            log.warning("the result of %s cannot be read: %s", probe.task_id, error)
            return None
        return benchmark_probe.answer_of(BytesIO(result), _expected(probe).answer_file)

    def _engine_shown(self, probe: OpenProbe, verdict: ProbeVerdict, answer: bytes | None) -> bool | None:
        """Whether Docker counts from now on; None: as before."""
        if verdict is ProbeVerdict.WRONG:
            return False
        if verdict not in {ProbeVerdict.RIGHT, ProbeVerdict.SLOW}:
            return None
        memory = (probe.memory_gb << _BYTES_PER_GIB_BITS) or DEFAULT_RUN_MEMORY_BYTES
        # Without an answer it was cut off; one that came late is as right as any.
        return benchmark_probe.ran_in_container(answer, memory) if answer else None

    def _tidy_up(self, probe: OpenProbe) -> None:
        """Nobody asks for them again."""
        try:
            self._store().delete_package(probe.package_sha256)
            if probe.result_attempt:
                self._store().delete_result(probe.result_attempt)
        except NodePoolError as error:
            log.info("files of %s stay on the disk: %s", probe.task_id, error)

    def _store(self) -> FileStore:
        if self._files is None:
            self._files = open_files(self._dispatcher.settings)
        return self._files


def _is_handed_back(probe: OpenProbe) -> bool:
    """Its node has lost or refused it."""
    return bool(probe.attempts_ended) or probe.attempt_state is AttemptState.REFUSED


def _expected(probe: OpenProbe) -> Probe:
    return Probe.of(probe.seed, work=probe.work, chains=probe.chains)


_CAUSES = {ProbeVerdict.RIGHT: Cause.PROBED, ProbeVerdict.WRONG: Cause.DIFFERED}
