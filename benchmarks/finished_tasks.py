"""Rows of tasks that have ended, as a pool leaves them that has run them: their attempts, holds, payments,
labels, jobs, probes, checks and credit changes, with a ledger that is right.

Rows only: no package and no result lies on the disk. The same seed makes the same rows. It asks and writes
nothing (benchmarks/filled_pool.py does).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nodepool.domain import ids
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, HoldState, NewEntry, Posted, PriceTerms
from nodepool.domain.tasks.states import AttemptState, JobKind, TaskKind, TaskState
from nodepool.domain.trust.benchmark_probe import ProbeVerdict
from nodepool.domain.trust.credit import Cause
from nodepool.stores.sql.job_tables import job_steps
from nodepool.stores.sql.tables import (
    attempts,
    credit_changes,
    holds,
    jobs,
    ledger_entries,
    probes,
    task_labels,
    tasks,
)

_AT_ONCE = 5000
_IN_JOB = 500  # tasks of one array
_IN_FLOW = 10
NODES = 20
_PACKAGES = 1000
# Of each so many tasks, one.
_REPLICATED, _PROBE, _AUDITED, _LABELLED, _RETRIED, _REFUSED, _SCORED = 50, 60, 70, 10, 30, 40, 100
_RUNS = 3
_PRICE, _MINUTES, _FEE_PERCENT = 2, 30, 10
_LONGEST_MINUTES = 5
SCORE = 80
_GRANT = 1 << 50
# Ends lie as far back as results are kept by default; nothing of it is due yet.
SPREAD_SECONDS = 5 * 86_400.0
_RESULT_BYTES, _PACKAGE_BYTES = 4096, 1024
Row = dict[str, Any]


@dataclass
class FinishedTasks:
    """Makes rows of ended tasks of these owners; the first of them has half of all."""

    owners: Sequence[int]
    now: float
    seed: int = 1
    head: tuple[int, str] = (0, ledger.GENESIS)
    balances: dict[str, int] = field(default_factory=dict)
    stored: dict[int, int] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._jobs: dict[str, tuple[str, int]] = {}

    def batch(self, count: int) -> dict[Any, list[Row]]:
        """Rows of so many further tasks of users, by their tables, in the order in which they go in."""
        rows: dict[Any, list[Row]] = {
            table: []
            for table in (
                jobs, job_steps, tasks, task_labels, attempts, probes, holds, ledger_entries, credit_changes,
            )
        }  # fmt: skip
        for _ in range(count):
            self._task(rows, self._made)
            self._made += 1
        return rows

    def _task(self, rows: dict[Any, list[Row]], number: int) -> None:
        rng = self._random
        owner = self.owners[0] if number % 2 else self.owners[number // 2 % len(self.owners)]
        ended_at = self.now - SPREAD_SECONDS * rng.random() - 60.0
        task_id = f"task_{rng.getrandbits(48):012x}{number:x}"
        node_id = node_id_of(rng.randrange(NODES))
        runs = _RUNS if number % _REPLICATED == 0 else 1
        state = TaskState.SUCCEEDED if rng.random() < 0.9 else TaskState.FAILED
        row = {
            **_task_row(task_id, owner, state, ended_at, rng),
            "node_id": node_id,
            "replicas": runs,
            "verification": "agreed" if runs > 1 else "",
            **self._of_job(rows, owner, task_id, number, ended_at),
        }
        if number % _RETRIED == 0 and runs == 1:
            row |= {"retries": 3, "tries_failed": 1, "attempts_ended": 1, "attempt_number": 2}
        rows[tasks].append(row)
        if number % _LABELLED == 0:
            self._label(rows, row)
        paid_for = self._runs_of(rows, row, number, runs, node_id, ended_at)
        self._pay(rows, row, paid_for, runs, ended_at)
        if number % _SCORED == 0:
            self._score(rows, row, node_id, number)
        if number % _PROBE == 0:
            self._probe(rows, task_id, node_id, ended_at)
        self.stored[owner] = self.stored.get(owner, 0) + _RESULT_BYTES

    def _of_job(self, rows: dict[Any, list[Row]], owner: int, task_id: str, number: int, at: float) -> Row:
        """A fifth of all are of arrays, and a twentieth of flows."""
        if number % 5 == 0:
            kind, size = JobKind.ARRAY, _IN_JOB
        elif number % 20 == 1:
            kind, size = JobKind.FLOW, _IN_FLOW
        else:
            return {}
        key = f"{kind}:{owner}"
        job_id, index = self._jobs.get(key, ("", size))
        if index >= size:
            job_id, index = f"{kind}_{task_id}", 0
            rows[jobs].append(_job_row(job_id, owner, kind, size, at))
            if kind is JobKind.FLOW:
                rows[job_steps].append(
                    {
                        "job_id": job_id, "number": 0, "name": "all", "is_array": True, "tasks": size,
                        "array_count": size, "first_index": 0, "last_index": size - 1,
                    }
                )  # fmt: skip
        self._jobs[key] = (job_id, index + 1)
        return {"job_id": job_id, "job_index": index}

    def _label(self, rows: dict[Any, list[Row]], row: Row) -> None:
        value = f"v{self._random.randrange(100)}"
        row |= {"labels": json.dumps({"stage": value}), "name": f"name{self._random.randrange(1000)}"}
        rows[task_labels].append(
            {
                "task_id": row["id"], "key": "stage", "value": value, "owner_id": row["owner_id"],
                "created_at": row["created_at"],
            }
        )  # fmt: skip

    def _runs_of(
        self, rows: dict[Any, list[Row]], row: Row, number: int, runs: int, node_id: str, ended_at: float
    ) -> list[str]:
        """The attempts that are paid for, from the task's hold."""
        rng = self._random
        if runs > 1:
            names = []
            for run in range(1, runs + 1):
                node = node_id_of(number + run)
                run_row = {
                    **row, "id": f"{row['id']}~{run}", "parent_id": row["id"], "kind": TaskKind.REPLICA,
                    "replicas": 1, "node_id": node, "verification": "agreed", "labels": "", "name": "",
                    "job_id": "", "job_index": 0, "keeps_package": False, "stored_bytes": 0,
                }  # fmt: skip
                rows[tasks].append(run_row)
                names.append(self._attempt(rows, run_row, 1, AttemptState.FINISHED, node, ended_at))
            row["result_attempt"] = names[0]
            return names
        last = row.get("attempt_number", 1)
        if last > 1:
            self._attempt(rows, row, 1, AttemptState.FINISHED, node_id_of(number), ended_at - 60)
        elif number % _REFUSED == 0:
            last = row["attempt_number"] = 2
            self._attempt(rows, row, 1, AttemptState.REFUSED, node_id_of(number), ended_at - 60)
        name = self._attempt(rows, row, last, AttemptState.FINISHED, node_id, ended_at)
        row["result_attempt"] = name
        if number % _AUDITED == 0:
            check = {
                **row, "id": f"{row['id']}~1", "parent_id": row["id"], "kind": TaskKind.AUDIT,
                "attempt_number": 1, "labels": "", "name": "", "job_id": "", "job_index": 0,
                "verification": "agreed", "keeps_package": False, "stored_bytes": 0,
                "node_id": node_id_of(number),
            }  # fmt: skip
            rows[tasks].append(check)
            self._attempt(rows, check, 1, AttemptState.FINISHED, check["node_id"], ended_at + rng.random())
            row["verification"] = "audited"
        return [name]

    def _attempt(
        self, rows: dict[Any, list[Row]], task: Row, number: int, state: AttemptState, node: str, at: float
    ) -> str:
        name = ids.attempt_id(f"{self._random.getrandbits(96):024x}")
        rows[attempts].append(
            {
                "id": name, "task_id": task["id"], "number": number, "node_id": node, "state": state,
                "claim_cpu_score": 100, "claim_memory_mb": 512, "claim_gpu_score": 0,
                "claim_gpu_memory_gb": 0, "created_at": at - 30.0, "started_at": at - 29.0,
                "finished_at": at, "exit_code": 0, "queue_seconds": 0.1, "bytes_in": _PACKAGE_BYTES,
                "bytes_out": _RESULT_BYTES, "run_seconds": 29.0,
            }
        )  # fmt: skip
        return name

    def _pay(
        self, rows: dict[Any, list[Row]], row: Row, names: Sequence[str], runs: int, ended_at: float
    ) -> None:
        task_id, payer = row["id"], ledger.user_account(row["owner_id"])
        provider = ledger.user_account(self.owners[-1])
        terms = PriceTerms(_PRICE, _MINUTES, runs, _FEE_PERCENT)
        minutes = self._random.randint(1, _LONGEST_MINUTES)
        fee = ledger.fee_of(_PRICE * minutes, _FEE_PERCENT)
        entries = [
            NewEntry(
                ledger.hold_id(task_id),
                EntryKind.HOLD,
                payer,
                ledger.ESCROW,
                terms.amount,
                task_id,
                terms.memo,
            )
        ]
        for name in names:
            pay = ledger.payment_id(name), EntryKind.PAYMENT, ledger.ESCROW, provider
            entries.append(NewEntry(*pay, _PRICE * minutes - fee, task_id))
            if fee:
                entries.append(
                    NewEntry(ledger.fee_id(name), EntryKind.FEE, ledger.ESCROW, ledger.FEE, fee, task_id)
                )
        posted = _PRICE * minutes * len(names)
        back = ledger.release_id(task_id), EntryKind.RELEASE, ledger.ESCROW, payer
        entries.append(NewEntry(*back, terms.amount - posted, task_id))
        for entry in entries:
            at = row["created_at"] if entry.kind is EntryKind.HOLD else ended_at
            rows[ledger_entries].append(self.entry(entry, at))
        rows[holds].append(
            {
                "task_id": task_id, "account_id": payer, "amount": terms.amount,
                "price_per_minute": _PRICE, "max_minutes": _MINUTES, "fee_percent": _FEE_PERCENT,
                "state": HoldState.POSTED, "posted": posted, "created_at": row["created_at"],
                "ended_at": ended_at,
            }
        )  # fmt: skip

    def entry(self, entry: NewEntry, at: float) -> Row:
        for account, change in ((entry.debit, -entry.amount), (entry.credit, entry.amount)):
            self.balances[account] = self.balances.get(account, 0) + change
        seq = self.head[0] + 1
        posted = Posted(seq, entry, self.balances[entry.debit], self.balances[entry.credit], at)
        self.head = seq, ledger.entry_hash(self.head[1], posted)
        return {
            "seq": seq, "id": entry.id, "kind": entry.kind, "debit_account": entry.debit,
            "credit_account": entry.credit, "amount": entry.amount, "debit_balance": posted.debit_balance,
            "credit_balance": posted.credit_balance, "task_id": entry.task_id, "memo": entry.memo,
            "created_at": at, "hash": self.head[1],
        }  # fmt: skip

    def _score(self, rows: dict[Any, list[Row]], row: Row, node_id: str, number: int) -> None:
        rows[credit_changes].append(
            {
                "id": f"{Cause.VERIFIED}:{row['id']}", "user_id": self.owners[-1], "kind": Cause.VERIFIED,
                "delta": 1, "score_after": SCORE, "task_id": row["id"], "node_id": node_id,
                "created_at": row["finished_at"], "reason": f"of {number}",
            }
        )  # fmt: skip

    def _probe(self, rows: dict[Any, list[Row]], of: str, node_id: str, ended_at: float) -> None:
        task_id = f"p{of}"
        row = {
            **_task_row(task_id, self.owners[-1], TaskState.SUCCEEDED, ended_at, self._random),
            "kind": TaskKind.PROBE, "price_per_minute": 0, "node_id": node_id, "pinned_node": node_id,
            "stored_bytes": 0, "keeps_package": False,
        }  # fmt: skip
        rows[tasks].append(row)
        row["result_attempt"] = self._attempt(rows, row, 1, AttemptState.FINISHED, node_id, ended_at)
        rows[probes].append(
            {
                "task_id": task_id, "node_id": node_id, "seed": "0" * 64, "chains": 1, "work": 1000,
                "claimed_cpu_score": 1000, "created_at": ended_at - 30.0, "verdict": ProbeVerdict.RIGHT,
            }
        )  # fmt: skip


def node_id_of(number: int) -> str:
    return f"left/n{number % NODES}"


def _task_row(task_id: str, owner: int, state: TaskState, ended_at: float, rng: random.Random) -> Row:
    return {
        "id": task_id, "owner_id": owner, "state": state, "cpu_score": 100, "memory_gb": 1, "gpu_score": 0,
        "gpu_memory_gb": 0, "gpu_name": "", "region": "any", "tier": "high", "image": "python:3.12-slim",
        "network": False, "max_minutes": _MINUTES, "price_per_minute": _PRICE,
        "package_sha256": f"{rng.randrange(_PACKAGES):064x}", "package_bytes": _PACKAGE_BYTES,
        "attempt_number": 1, "exit_code": 0 if state is TaskState.SUCCEEDED else 1,
        "result_bytes": _RESULT_BYTES, "created_at": ended_at - 40.0, "updated_at": ended_at,
        "queued_at": ended_at - 40.0, "hinted_at": ended_at - 40.0, "started_at": ended_at - 29.0,
        "finished_at": ended_at, "storage_due": False, "stored_bytes": _RESULT_BYTES,
        "reason": "" if state is TaskState.SUCCEEDED else "exit code 1",
    }  # fmt: skip


def _job_row(job_id: str, owner: int, kind: JobKind, size: int, at: float) -> Row:
    return {
        "id": job_id, "owner_id": owner, "kind": kind, "count": size, "array_count": size,
        "digest": "0" * 64, "created_at": at - 50.0, "accepted_at": at - 50.0, "renewed_at": at - 50.0,
        "hinted_at": at, "ended_at": at + 1.0,
    }  # fmt: skip
