"""A pool's money as a state machine: accounts, holds, transfers, attempts, crashes and repeats, on SQLite.

Beside the database runs a model in plain Python, which knows the rules as docs/money.md tells them. After
every step both have the same balances and the same holds. A crash ends a transaction before any of its
statements, as the end of the process would; then nothing of it may be there.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, create_engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotEnoughCptError,
    NotFoundError,
    StaleAttemptError,
    StateConflictError,
)
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import holds, ledger_accounts, ledger_entries, tasks
from nodepool.workflows import attempt_end
from tests.support.money import add_deferring_task, add_held_task, add_payer
from tests.support.stores import add_node, place

T = TypeVar("T")
USERS = 4
GRANT = 500
MAX_ATTEMPTS = 2
REFUSED = (StateConflictError, InvalidInputError, NotEnoughCptError, NotFoundError, StaleAttemptError)

users = st.integers(1, USERS)
# Few ids, so that the same ones come again, with the same and with other contents.
names = st.integers(0, 5)
amounts = st.one_of(st.integers(1, 60), st.sampled_from([0, -1, 499, 501, 2**62 - 1, 2**62, 2**63, -(2**63)]))
# Before which statement of its transaction the process ends; mostly it does not.
crashes = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(1, 25))


class CrashError(Exception):
    """The process ends here."""


class Stage:
    """A database in memory whose transactions can be ended before any of their statements.

    One for all examples: SQLAlchemy compiles a statement for each engine, which takes longer than it runs.
    """

    def __init__(self, template: sqlite3.Connection) -> None:
        self._template = template
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        self._left = 0
        self.connection = self.engine.connect()
        raw = self.connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.isolation_level = None
        self._raw = raw
        event.listen(self.engine, "before_cursor_execute", self._before)

    def begin_anew(self) -> None:
        """The template's contents, whatever was there."""
        self._template.backup(self._raw)
        self._raw.execute("PRAGMA foreign_keys=ON")

    def _before(self, *_: Any) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                raise CrashError

    def write(self, work: Callable[[Connection], T], crash: int = 0) -> T:
        self.connection.exec_driver_sql("BEGIN IMMEDIATE")
        self._left = crash
        try:
            value = work(self.connection)
        except BaseException:
            self._left = 0
            self.connection.exec_driver_sql("ROLLBACK")
            raise
        self._left = 0
        self.connection.exec_driver_sql("COMMIT")
        return value

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


@dataclass
class Task:
    """What the model knows of a task."""

    owner: int
    price: int
    minutes: int
    fee: int
    held: int  # now
    state: str = "QUEUED"
    defers: bool = False  # it holds its price when it is first placed
    attempt: int = 0
    bad: int = 0
    started: float | None = None
    stop: bool = False
    posted: int = 0

    @property
    def ever_held(self) -> bool:
        return not self.defers or self.attempt > 0


def add_people(connection: Connection) -> None:
    """Who the machine's examples begin with."""
    for number in range(1, USERS + 1):
        add_payer(connection, f"user{number}", grant=GRANT)
        add_node(connection, number, f"node{number}")


class Money(RuleBasedStateMachine):
    stage: ClassVar[Stage]
    settings: ClassVar[Settings]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.stage.begin_anew()
        self.now = 1000.0
        self.balances = {f"user:{number}": GRANT for number in range(1, USERS + 1)}
        self.balances |= {"escrow": 0, "pending": 0, "fee": 0, "mint": -GRANT * USERS}
        self.tasks: dict[str, Task] = {}
        self.moves: dict[str, tuple[str, str, int]] = {}

    def teardown(self) -> None:
        assert ledger_store.verify(self.stage.connection) == []

    def _do(self, work: Callable[[Connection], T], crash: int) -> T | None:
        """None when it crashed or was refused, and so changed nothing."""
        try:
            return self.stage.write(work, crash)
        except (CrashError, AlreadyExistsError, IntegrityError, *REFUSED):
            return None

    def _move(self, debit: str, credit: str, amount: int) -> None:
        self.balances[debit] -= amount
        self.balances[credit] += amount

    # -- what people do ------------------------------------------------------------------------------
    @rule(sender=st.integers(0, USERS), receiver=users, amount=amounts, name=names, crash=crashes)
    def transfer(self, sender: int, receiver: int, amount: int, name: int, crash: int) -> None:
        """From a user, or new CPT from the mint."""
        debit = f"user:{sender}" if sender else ledger.MINT
        self._entry(f"transfer:{sender}:{name}", debit, f"user:{receiver}", amount, crash)

    def _entry(self, entry_id: str, debit: str, credit: str, amount: int, crash: int) -> None:
        kind = EntryKind.GRANT if debit == ledger.MINT else EntryKind.TRANSFER
        entry = NewEntry(entry_id, kind, debit, credit, amount)
        moved = self._do(lambda c: ledger_store.move(c, [entry], self.now), crash)
        may = 0 < amount < 2**62 and debit != credit and entry_id not in self.moves
        covered = debit == ledger.MINT or self.balances[debit] >= amount
        if debit == ledger.MINT and amount > ledger.MAX_CPT + self.balances[ledger.MINT]:
            covered = False
        if moved:
            assert may
            assert covered
            self.moves[entry_id] = (debit, credit, amount)
            self._move(debit, credit, amount)
        elif moved is None and not crash:
            assert not (may and covered)
            assert self.moves.get(entry_id) != (debit, credit, amount)
        elif moved is not None:
            assert self.moves[entry_id] == (debit, credit, amount)

    @rule(
        owner=users,
        name=names,
        price=st.integers(1, 9),
        minutes=st.integers(1, 12),
        fee=st.sampled_from([0, 10, 50]),
        defers=st.booleans(),
        crash=crashes,
    )
    def submit(
        self, owner: int, name: int, price: int, minutes: int, fee: int, crash: int, *, defers: bool = False
    ) -> None:
        """Of a task that defers its hold nothing is moved, and its owner may have too little."""
        task_id, amount = f"task{len(self.tasks) if name else 0}", price * minutes
        columns = {"max_minutes": minutes, "price_per_minute": price, "created_at": self.now}
        add = add_deferring_task if defers else add_held_task
        stored = self._do(lambda c: add(c, owner, task_id, fee_percent=fee, **columns), crash)
        may = task_id not in self.tasks and (defers or self.balances[f"user:{owner}"] >= amount)
        assert may if stored else (crash or not may)
        if not stored:
            return
        self.tasks[task_id] = Task(owner, price, minutes, fee, 0 if defers else amount, defers=defers)
        if not defers:
            self._move(f"user:{owner}", "escrow", amount)

    # -- what becomes of a task ----------------------------------------------------------------------
    def _pick(self, number: int, *states: str) -> tuple[str, Task] | None:
        """Mostly one in such a state."""
        likely = [task_id for task_id, task in self.tasks.items() if task.state in states]
        chosen = likely if likely and number < 5 else list(self.tasks)
        if not chosen:
            return None
        task_id = chosen[number % len(chosen)]
        return task_id, self.tasks[task_id]

    @rule(number=names, provider=users, crash=crashes)
    def run(self, number: int, provider: int, crash: int) -> None:
        """Place it and claim it: two transactions, and the process may end in and between them.

        A task is submitted where none waits: rules are chosen by chance, and runs are what pays.
        """
        if not any(task.state == "QUEUED" for task in self.tasks.values()):
            self.submit(owner=1 + number % USERS, name=1, price=3, minutes=5, fee=10, crash=0)
        if (picked := self._pick(number, "QUEUED")) is None:
            return
        task_id, task = picked
        amount, account = task.price * task.minutes, f"user:{task.owner}"
        lacks = not task.ever_held and self.balances[account] < amount
        placed = self._do(
            lambda c: place(c, task_id, f"node{provider}", number=task.attempt + 1, now=self.now), crash
        )
        if placed:
            assert task.state == "QUEUED"
            assert not lacks
            if not task.ever_held:
                task.held = amount
                self._move(account, "escrow", amount)
            task.state, task.attempt = "PLACED", task.attempt + 1
        elif placed is False and task.state == "QUEUED":
            assert lacks
        attempt = f"{task_id}:{task.attempt}"
        claimed = self._do(
            lambda c: task_store.claim_attempt(c, attempt, f"node{provider}", provider, self.now),
            max(0, crash - 8),
        )
        if claimed is not None and task.state == "PLACED":
            task.state, task.started = "RUNNING", self.now

    @rule(
        number=names,
        outcome=st.sampled_from([*[Outcome.SUCCEEDED] * 4, *Outcome]),
        back=st.sampled_from([0, 0, 0, 1]),
        provider=users,
        crash=crashes,
    )
    def end(self, number: int, outcome: Outcome, back: int, provider: int, crash: int) -> None:
        """Of the current attempt or an earlier one, in any state, once or again."""
        if (picked := self._pick(number, "PLACED", "RUNNING")) is None:
            return
        task_id, task = picked
        row = self.stage.connection.execute(select(tasks.c.node_id).where(tasks.c.id == task_id)).one()
        node, owner = row.node_id or f"node{provider}", int((row.node_id or f"node{provider}")[4:])
        attempt = f"{task_id}:{task.attempt - back}"
        end = End(outcome=outcome, exit_code=None, reason=told("it ended"))
        ended = self._do(
            lambda c: attempt_end.end_in_sql(
                c, attempt, node, owner, end, settings=self.settings, now=self.now
            ),
            crash,
        )
        if ended is None or not ended.changed:
            return
        assert back == 0
        assert task.state in ("PLACED", "RUNNING")
        bad = outcome in (Outcome.LOST, Outcome.REFUSED)
        task.bad += outcome is Outcome.LOST  # what nodes refuse says nothing of the task
        if bad and not task.stop and task.bad < MAX_ATTEMPTS:
            task.state, task.started = "QUEUED", None
            return
        # A run that took all its time and shows nothing is checked before it is paid.
        took_all = task.started is not None and self.now - task.started >= task.minutes * 60
        waits = outcome is Outcome.FAILED and took_all and owner != task.owner
        self._settle(task, owner, paid=not bad, waits=waits)

    @rule(number=names, crash=crashes)
    def stop(self, number: int, crash: int) -> None:
        if (picked := self._pick(number, "QUEUED", "RUNNING")) is None:
            return
        task_id, task = picked
        if self._do(lambda c: task_store.request_stop(c, task_id, self.now), crash) is None:
            return
        if task.state == "QUEUED" and not task.ever_held:
            task.state = "ended"
        elif task.state == "QUEUED":
            self._settle(task, 0, paid=False)
        elif task.held:
            task.stop = True

    def _settle(self, task: Task, provider: int, *, paid: bool, waits: bool = False) -> None:
        minutes = 0
        if paid and task.started is not None:
            minutes = min(task.minutes, max(1, math.ceil((self.now - task.started) / 60)))
        charged = task.price * minutes
        fee = charged * task.fee // 100
        account = "pending" if waits else f"user:{provider or task.owner}"
        self._move("escrow", account, charged - fee)
        self._move("escrow", "fee", fee)
        self._move("escrow", f"user:{task.owner}", task.held - charged)
        assert task.held > 0, "a hold ended twice"
        task.state, task.held, task.posted = "ended", 0, charged

    @rule(seconds=st.sampled_from([0.0, 1.0, 59.0, 60.0, 61.0, 300.0, 10_000.0, -5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=names, crash=crashes)
    def reverse(self, number: int, crash: int) -> None:
        query = select(ledger_entries).where(
            ledger_entries.c.kind.in_([EntryKind.PAYMENT, EntryKind.TRANSFER, EntryKind.GRANT])
        )
        rows = self.stage.connection.execute(query.order_by(ledger_entries.c.seq.desc()).limit(6)).all()
        entry_id = rows[number % len(rows)].id
        for entry in self._do(lambda c: ledger_store.reverse(c, entry_id, self.now), crash) or ():
            self._move(entry.debit, entry.credit, entry.amount)

    # -- what is true after every step ---------------------------------------------------------------
    @invariant()
    def the_model_and_the_database_agree(self) -> None:
        Money.steps += 1
        connection = self.stage.connection
        accounts = connection.execute(select(ledger_accounts.c.id, ledger_accounts.c.balance))
        balances: dict[str, int] = {row.id: row.balance for row in accounts}
        assert balances == self.balances
        assert sum(balances.values()) == 0
        assert all(balance >= 0 for account, balance in balances.items() if account != ledger.MINT)
        columns = (holds.c.task_id, holds.c.state, holds.c.posted)
        there = {row.task_id: (row.state, row.posted) for row in connection.execute(select(*columns))}
        assert there == {
            task_id: ("held" if task.held else "posted" if task.posted else "voided", task.posted)
            for task_id, task in self.tasks.items()
            if task.ever_held
        }
