"""Accounts, movements, holds and statements on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.errors import InvalidInputError, NotEnoughCptError, NotFoundError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import MAX_CPT, EntryKind, NewEntry
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.api import Provider
from nodepool.stores.sql.tables import admin_acts, ledger_accounts, ledger_entries
from tests.support.money import PRICE, account, add_held_task, add_payer, check_sums, hold_of, spendable
from tests.support.stores import add_task, migrated

GRANT = 1000


class Bank:
    """A database with two users who have CPT, and short words for what is done to them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ada = database.write(lambda c: add_payer(c, "ada", grant=GRANT))
        self.bob = database.write(lambda c: add_payer(c, "bob", grant=GRANT))

    def transfer(self, amount: int, name: str = "x", *, sender: int = 0, receiver: int = 0) -> bool:
        """True when it was new."""
        sender, receiver = sender or self.ada, receiver or self.bob
        entry = NewEntry(
            ledger.transfer_id(sender, name),
            EntryKind.TRANSFER,
            ledger.user_account(sender),
            ledger.user_account(receiver),
            amount,
        )
        return bool(self.database.write(lambda c: ledger_store.move(c, [entry], 1.0)))

    def task(self, **columns: object) -> str:
        return self.database.write(lambda c: add_held_task(c, self.ada, **columns))  # type: ignore[arg-type]

    def settle(self, task_id: str, minutes: int, *providers: Provider, now: float = 9.0) -> bool:
        providers = providers or (Provider(self.bob),)
        settled = self.database.write(
            lambda c: ledger_store.settle(c, task_id, f"{task_id}:1", providers, minutes, now)
        )
        return settled.changed

    def balances(self) -> tuple[int, int]:
        self.database.read(check_sums)
        assert self.database.read(ledger_store.verify) == []
        return self.database.read(lambda c: (spendable(c, self.ada), spendable(c, self.bob)))

    def entries(self) -> int:
        return self.database.read(
            lambda c: c.execute(select(func.count()).select_from(ledger_entries)).scalar_one()
        )


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with migrated(database_url) as database:
        yield Bank(database)


# -- movements ---------------------------------------------------------------------------------------
def test_a_new_account_has_its_grant_from_the_mint(bank: Bank) -> None:
    assert bank.balances() == (GRANT, GRANT)
    assert bank.database.read(lambda c: account(c, ledger.MINT)) == -2 * GRANT


def test_a_movement_told_twice_is_made_once(bank: Bank) -> None:
    assert bank.transfer(30)
    assert not bank.transfer(30)
    assert bank.balances() == (GRANT - 30, GRANT + 30)


def test_the_same_id_with_another_amount_or_receiver_is_refused(bank: Bank) -> None:
    bank.transfer(30)
    with pytest.raises(StateConflictError):
        bank.transfer(31)
    carol = bank.database.write(lambda c: add_payer(c, "carol"))
    with pytest.raises(StateConflictError):
        bank.transfer(30, receiver=carol)
    assert bank.balances() == (GRANT - 30, GRANT + 30)


@pytest.mark.parametrize("amount", [0, -1, -(1 << 63), 1 << 62, 1 << 63])
def test_an_amount_that_is_none_moves_nothing(bank: Bank, amount: int) -> None:
    with pytest.raises(InvalidInputError):
        bank.transfer(amount)
    assert bank.balances() == (GRANT, GRANT)


def test_more_than_there_is_moves_nothing(bank: Bank) -> None:
    for amount in (GRANT + 1, MAX_CPT):
        with pytest.raises(NotEnoughCptError):
            bank.transfer(amount)
    assert bank.balances() == (GRANT, GRANT)
    bank.transfer(GRANT)
    assert bank.balances() == (0, 2 * GRANT)


def test_an_account_that_is_not_there_moves_nothing(bank: Bank) -> None:
    with pytest.raises(NotFoundError):
        bank.transfer(1, receiver=999)
    assert bank.balances() == (GRANT, GRANT)


def test_several_movements_are_made_all_or_none(bank: Bank) -> None:
    ada, bob = ledger.user_account(bank.ada), ledger.user_account(bank.bob)

    def entry(name: str, debit: str, credit: str, amount: int) -> NewEntry:
        return NewEntry(name, EntryKind.TRANSFER, debit, credit, amount)

    with pytest.raises(NotEnoughCptError):
        bank.database.write(
            lambda c: ledger_store.move(c, [entry("a", ada, bob, GRANT), entry("b", ada, ledger.FEE, 1)], 1.0)
        )
    # Covered in the end, but not on the way.
    with pytest.raises(NotEnoughCptError):
        bank.database.write(
            lambda c: ledger_store.move(
                c, [entry("a", ada, bob, GRANT + 1), entry("b", bob, ada, GRANT + 1)], 1.0
            )
        )
    assert bank.balances() == (GRANT, GRANT)
    moved = bank.database.write(
        lambda c: ledger_store.move(
            c, [entry("a", ada, bob, GRANT), entry("b", bob, ada, 2 * GRANT), entry("c", ada, bob, 5)], 1.0
        )
    )
    assert [it.id for it in moved] == ["a", "b", "c"]
    assert bank.balances() == (2 * GRANT - 5, 5)


def test_no_more_can_be_minted_than_a_balance_can_hold(bank: Bank) -> None:
    def mint(name: str, amount: int) -> None:
        entry = NewEntry(
            ledger.mint_id(name), EntryKind.GRANT, ledger.MINT, ledger.user_account(bank.ada), amount
        )
        bank.database.write(lambda c: ledger_store.move(c, [entry], 1.0))

    with pytest.raises(NotEnoughCptError, match="cannot be more"):
        mint("too much", MAX_CPT)
    mint("all", MAX_CPT - 2 * GRANT)
    with pytest.raises(NotEnoughCptError):
        mint("one more", 1)
    bank.transfer(MAX_CPT - GRANT)
    assert bank.balances() == (0, MAX_CPT)


def test_the_database_itself_refuses_a_negative_balance(bank: Bank) -> None:
    for name in (ledger.ESCROW, ledger.FEE, ledger.user_account(bank.ada)):
        with pytest.raises(IntegrityError):
            bank.database.write(
                lambda c: c.execute(
                    update(ledger_accounts).where(ledger_accounts.c.id == name).values(balance=-1)  # noqa: B023
                )
            )


@pytest.mark.parametrize("table", ["ledger_entries", "admin_acts"])
def test_the_database_itself_refuses_to_change_or_delete_what_was_written(bank: Bank, table: str) -> None:
    act = {"admin": "root", "action": "mint", "subject": "ada", "created_at": 1.0}
    bank.database.write(lambda c: c.execute(insert(admin_acts).values(act)))
    rows = {"ledger_entries": ledger_entries, "admin_acts": admin_acts}[table]
    changes = [update(rows).values(created_at=2.0), delete(rows)]
    if not bank.database.is_sqlite:
        changes.append(text(f"TRUNCATE {table}"))  # type: ignore[arg-type]
    for change in changes:
        with pytest.raises(IntegrityError, match="never changed or deleted"):
            bank.database.write(lambda c: c.execute(change))  # noqa: B023
    assert bank.balances() == (GRANT, GRANT)


# -- holds -------------------------------------------------------------------------------------------
def test_a_hold_takes_the_longest_run_and_says_so(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, replicas=2, fee_percent=10)
    assert bank.balances() == (GRANT - 20 * PRICE, GRANT)
    assert bank.database.read(lambda c: ledger_store.balance(c, bank.ada)) == (GRANT - 60, 60)
    (line, _) = bank.database.read(lambda c: ledger_store.statement(c, bank.ada)).lines
    assert (line.entry_id, line.amount, line.counterparty) == (f"hold:{task_id}", -60, "escrow")
    assert line.memo == "up to 10 min at 3 CPT a minute, 2 runs, fee 10 %"


def test_a_task_that_is_not_covered_holds_nothing_and_is_told_what_would_be(bank: Bank) -> None:
    with pytest.raises(NotEnoughCptError) as caught:
        bank.task(max_minutes=334)
    for words in (
        "3 CPT for each started minute",
        "1002 CPT are set aside",
        "1000 CPT in your",
        "max_minutes 333",
    ):
        assert words in str(caught.value)
    with pytest.raises(NotEnoughCptError, match="less memory"):
        bank.task(max_minutes=1, price_per_minute=GRANT + 1)
    assert bank.balances() == (GRANT, GRANT)
    bank.task(max_minutes=333)


def test_the_end_pays_the_started_minutes_and_gives_the_rest_back(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED", fee_percent=10)
    assert bank.settle(task_id, 7)
    # 21 CPT, of which 2 are the pool's.
    assert bank.balances() == (GRANT - 21, GRANT + 19)
    assert bank.database.read(lambda c: account(c, ledger.FEE)) == 2
    hold = bank.database.read(lambda c: hold_of(c, task_id))
    assert (hold.state, hold.posted, hold.ended_at) == ("posted", 21, 9.0)


def test_a_hold_ends_once_however_often_its_end_is_told(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    assert bank.settle(task_id, 1)
    before = bank.entries()
    assert not bank.settle(task_id, 1)
    assert not bank.settle(task_id, 10)
    assert not bank.database.write(lambda c: ledger_store.void(c, task_id, 10.0)).changed
    assert bank.entries() == before
    assert bank.balances() == (GRANT - PRICE, GRANT + PRICE)


def test_a_voided_hold_goes_back_whole(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="STOPPED")
    assert bank.database.write(lambda c: ledger_store.void(c, task_id, 10.0)).changed
    assert not bank.settle(task_id, 1)
    assert bank.balances() == (GRANT, GRANT)
    assert bank.database.read(lambda c: hold_of(c, task_id)).state == "voided"


def test_never_more_than_the_hold_is_paid(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    assert bank.settle(task_id, 10**9)
    assert bank.balances() == (GRANT - 10 * PRICE, GRANT + 10 * PRICE)


def test_a_task_without_a_hold_ends_without_a_payment(bank: Bank) -> None:
    task_id = bank.database.write(lambda c: add_task(c, bank.ada))
    assert not bank.settle(task_id, 5)
    assert bank.balances() == (GRANT, GRANT)


def test_several_providers_share_without_losing_a_cpt(bank: Bank) -> None:
    carol = bank.database.write(lambda c: add_payer(c, "carol", grant=0))
    task_id = bank.task(max_minutes=10, replicas=2, state="SUCCEEDED", fee_percent=10)
    runs = (Provider(bank.bob, 3, f"{task_id}:1"), Provider(carol, 4, f"{task_id}-2:1"))
    assert bank.settle(task_id, 7, *runs)
    # 9 and 12 CPT; the pool's tenth of each is rounded down.
    assert bank.balances() == (GRANT - 21, GRANT + 9)
    assert bank.database.read(lambda c: (spendable(c, carol), account(c, ledger.FEE))) == (11, 1)


def test_who_runs_on_his_own_node_pays_himself(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    bank.settle(task_id, 2, Provider(bank.ada))
    assert bank.balances() == (GRANT, GRANT)


# -- statement and reversal --------------------------------------------------------------------------
def test_a_statement_has_running_balances_and_pages_that_fit_together(bank: Bank) -> None:
    for number in range(7):
        bank.transfer(10 + number, f"out{number}")
        bank.transfer(1, f"in{number}", sender=bank.bob, receiver=bank.ada)
    lines, before = [], 0
    while True:
        page = bank.database.read(
            lambda c: ledger_store.statement(c, bank.ada, before_seq=before, limit=4)  # noqa: B023
        )
        lines += page.lines
        before = page.next_before_seq
        if not before:
            break
    assert len(lines) == 15
    assert [line.seq for line in lines] == sorted((line.seq for line in lines), reverse=True)
    balance = 0
    for line in reversed(lines):
        balance += line.amount
        assert line.balance_after == balance
    assert balance == bank.balances()[0]
    assert {line.counterparty for line in lines} == {"bob", "mint"}


def test_a_statement_of_a_task_has_only_its_lines_and_adds_up(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    bank.transfer(5)
    bank.settle(task_id, 2)
    lines = bank.database.read(lambda c: ledger_store.statement(c, bank.ada, task_id=task_id)).lines
    assert [(line.kind, line.amount) for line in lines] == [("release", 24), ("hold", -30)]
    (line,) = bank.database.read(lambda c: ledger_store.statement(c, bank.bob, task_id=task_id)).lines
    assert (line.kind, line.amount, line.memo) == ("payment", 6, "2 min at 3 CPT a minute")


def test_a_payment_is_reversed_with_its_fee_and_only_once(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED", fee_percent=10)
    bank.settle(task_id, 10)
    for expected in (2, 0):
        made = bank.database.write(
            lambda c: ledger_store.reverse(c, f"pay:{task_id}:1", 20.0, memo="a dispute")
        )
        assert len(made) == expected
    assert bank.balances() == (GRANT, GRANT)
    assert bank.database.read(lambda c: account(c, ledger.FEE)) == 0
    lines = bank.database.read(lambda c: ledger_store.statement(c, bank.ada, task_id=task_id)).lines
    assert [line.amount for line in lines] == [3, 27, -30]


def test_a_payment_that_was_spent_cannot_be_reversed(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    bank.settle(task_id, 10)
    bank.transfer(GRANT + 1, sender=bank.bob, receiver=bank.ada)
    with pytest.raises(NotEnoughCptError):
        bank.database.write(lambda c: ledger_store.reverse(c, f"pay:{task_id}:1", 20.0))
    assert bank.balances() == (2 * GRANT + 1 - 30, 29)


def test_transfers_and_grants_are_reversed_and_holds_are_not(bank: Bank) -> None:
    bank.transfer(5)
    bank.database.write(lambda c: ledger_store.reverse(c, f"transfer:{bank.ada}:x", 2.0))
    bank.database.write(lambda c: ledger_store.reverse(c, f"grant:{bank.bob}", 2.0))
    assert bank.balances() == (GRANT, 0)
    task_id = bank.task()
    with pytest.raises(StateConflictError):
        bank.database.write(lambda c: ledger_store.reverse(c, f"hold:{task_id}", 2.0))
    with pytest.raises(StateConflictError):
        bank.database.write(lambda c: ledger_store.reverse(c, f"reversal:grant:{bank.bob}", 2.0))
    with pytest.raises(NotFoundError):
        bank.database.write(lambda c: ledger_store.reverse(c, "nothing", 2.0))


def test_who_paid_himself_is_owed_nothing_back(bank: Bank) -> None:
    task_id = bank.task(max_minutes=10, state="SUCCEEDED")
    bank.settle(task_id, 2, Provider(bank.ada))
    assert not bank.database.write(lambda c: ledger_store.reverse(c, f"pay:{task_id}:1", 20.0))
    assert bank.balances() == (GRANT, GRANT)
