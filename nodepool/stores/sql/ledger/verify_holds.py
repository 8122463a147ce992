"""Every hold against its entries and its task: what was set aside, how it was divided, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, Select, exists, func, literal, select

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, HoldState, PriceTerms
from nodepool.domain.tasks.states import FINAL_TASK_STATES
from nodepool.stores.sql.ledger.report import CHUNK_ROWS, MAX_PROBLEMS, LedgerReport, stream
from nodepool.stores.sql.tables import holds, ledger_accounts, ledger_entries, provisional_results, tasks

_OF_A_HOLD = (EntryKind.HOLD, EntryKind.PAYMENT, EntryKind.FEE, EntryKind.RELEASE)
_WITH_TASK = (
    select(
        holds,
        tasks.c.state.label("task_state"),
        tasks.c.owner_id,
        tasks.c.price_per_minute.label("task_price"),
        tasks.c.max_minutes.label("task_minutes"),
        tasks.c.replicas,
        tasks.c.verification,
        tasks.c.retries,
    )
    .outerjoin(tasks, tasks.c.id == holds.c.task_id)
    .order_by(holds.c.task_id)
)
# Of tasks whose results are still compared: they have ended, and who is paid is not known yet.
_OPEN_VERDICTS = frozenset({"pending"})


def check_holds(connection: Connection, report: LedgerReport) -> None:
    for chunk in _chunks(stream(connection, _WITH_TASK)):
        report.holds += len(chunk)
        entries: dict[str, list[Row[Any]]] = defaultdict(list)
        query = select(ledger_entries).where(
            ledger_entries.c.task_id.in_([row.task_id for row in chunk]),
            ledger_entries.c.kind.in_(_OF_A_HOLD),
        )
        for entry in connection.execute(query.order_by(ledger_entries.c.seq)):
            entries[entry.task_id].append(entry)
        for row in chunk:
            for text in _problems(row, entries[row.task_id]):
                report.wrong(f"the hold of task {row.task_id} {text}")
    _check_what_has_none(connection, report)
    held_now = select(func.sum(holds.c.amount - holds.c.posted)).where(holds.c.state == HoldState.HELD)
    _check_account(connection, ledger.ESCROW, held_now, "tasks hold", report)
    # What was paid for results that are not verified yet.
    paid = ledger_entries.c.id == literal(ledger.payment_id("")) + provisional_results.c.attempt_id
    waits = (
        select(func.sum(ledger_entries.c.amount))
        .join(provisional_results, paid)
        .where(ledger_entries.c.credit_account == ledger.PENDING)
    )
    _check_account(connection, ledger.PENDING, waits, "results that are not verified yet keep back", report)


def _check_account(
    connection: Connection, account: str, expected: Select[Any], words: str, report: LedgerReport
) -> None:
    query = select(ledger_accounts.c.balance).where(ledger_accounts.c.id == account)
    balance = connection.execute(query).scalar()
    amount = int(connection.execute(expected).scalar() or 0)
    if balance != amount:
        report.wrong(f"account {account} has {balance} CPT, and {words} {amount}")


def _check_what_has_none(connection: Connection, report: LedgerReport) -> None:
    of_entry = exists().where(holds.c.task_id == ledger_entries.c.task_id)
    query = select(ledger_entries.c.seq, ledger_entries.c.id).where(
        ledger_entries.c.kind.in_(_OF_A_HOLD), ~of_entry
    )
    for row in connection.execute(query.order_by(ledger_entries.c.seq).limit(MAX_PROBLEMS + 1)):
        report.wrong(f"entry {row.seq} ({row.id}) belongs to a hold that is not there")
    of_task = exists().where(holds.c.task_id == tasks.c.id)
    # A task that holds its price when it is placed has none before that.
    due = tasks.c.holds_when_placed.is_(False) | (tasks.c.attempt_number > 0)
    priced = select(tasks.c.id).where(tasks.c.kind == "user", tasks.c.price_per_minute > 0, due, ~of_task)
    for row in connection.execute(priced.order_by(tasks.c.id).limit(MAX_PROBLEMS + 1)):
        report.wrong(f"task {row.id} has a price and never held it")


def _problems(row: Row[Any], entries: Sequence[Row[Any]]) -> Iterator[str]:
    begun = [entry for entry in entries if entry.kind == EntryKind.HOLD]
    ended = [entry for entry in entries if entry.kind != EntryKind.HOLD]
    first = [entry for entry in begun if entry.id == ledger.hold_id(row.task_id)]
    if len(first) != 1:
        yield f"has {len(first)} entries that set it aside, and not one"
    else:
        yield from _not_as_agreed(row, first[0], [entry for entry in begun if entry not in first])
    yield from _not_as_its_task(row)
    if row.state == HoldState.HELD:
        yield from _wrongly_used(row, ended)
    elif row.state in (HoldState.POSTED, HoldState.VOIDED):
        yield from _wrongly_divided(row, ended)
    else:
        yield f"is in a state that there is not: {row.state}"


def _not_as_agreed(row: Row[Any], entry: Row[Any], again: Sequence[Row[Any]]) -> Iterator[str]:
    """`again`: what was set aside before other tries."""
    amount = row.amount - sum(it.amount for it in again)
    there = (entry.debit_account, entry.credit_account, entry.amount, entry.created_at)
    if there != (row.account_id, ledger.ESCROW, amount, row.created_at):
        yield f"is not what entry {entry.seq} set aside"
    if any((it.debit_account, it.credit_account) != (row.account_id, ledger.ESCROW) for it in again):
        yield "was added to from another account than its own"
    if entry.memo != _memo(row, entry.amount):
        yield f"says other terms than entry {entry.seq}, which says: {entry.memo}"


def _memo(row: Row[Any], amount: int) -> str:
    """What the hold entry would say of these terms; nothing where they cannot be."""
    try:
        runs = amount // (row.price_per_minute * row.max_minutes)
        terms = PriceTerms(row.price_per_minute, row.max_minutes, runs, row.fee_percent)
        is_whole = terms.amount == amount
    except (InvalidInputError, ZeroDivisionError, TypeError):
        return ""
    return terms.memo if is_whole else ""


def _not_as_its_task(row: Row[Any]) -> Iterator[str]:
    if row.task_state is None:
        # After a while the pool removes tasks that have ended; their money stays.
        if row.task_removed_at is None:
            yield "has no task"
        elif row.state == HoldState.HELD:
            yield "is still held, and its task was removed"
        return
    if row.task_removed_at is not None:
        yield "says that its task was removed, and it is there"
    if row.account_id != ledger.user_account(row.owner_id):
        yield f"is of {row.account_id}, and its task of user {row.owner_id}"
    if (row.price_per_minute, row.max_minutes) != (row.task_price, row.task_minutes):
        yield "and its task do not agree on price and minutes"
    is_final = row.task_state in FINAL_TASK_STATES
    if is_final and row.state == HoldState.HELD and row.verification not in _OPEN_VERDICTS:
        yield f"is still held, and its task is {row.task_state}"
    if not is_final and row.state != HoldState.HELD and not row.verification:
        yield f"has ended, and its task is {row.task_state}"


def _wrongly_used(row: Row[Any], paid: Sequence[Row[Any]]) -> Iterator[str]:
    """Of a hold that goes on: what was paid is for tries that failed."""
    amount = sum(entry.amount for entry in paid)
    divided = row.ended_at is not None or any(entry.kind == EntryKind.RELEASE for entry in paid)
    if divided or amount != row.posted:
        yield "is still held, and was divided"
    if any(entry.debit_account != ledger.ESCROW for entry in paid):
        yield "was used from another account than the escrow"
    yield from _wrong_fees(row, paid)


def _wrongly_divided(row: Row[Any], ended: Sequence[Row[Any]]) -> Iterator[str]:
    paid = sum(entry.amount for entry in ended if entry.kind != EntryKind.RELEASE)
    released = sum(entry.amount for entry in ended if entry.kind == EntryKind.RELEASE)
    if (paid, paid + released) != (row.posted, row.amount):
        yield f"of {row.amount} CPT was divided into {paid} and {released}, and says {row.posted}"
    if (row.state == HoldState.POSTED) != (paid > 0):
        yield f"is {row.state}, and {paid} CPT of it were paid"
    if any(_at_another_time(row, entry) for entry in ended):
        yield "ended at another time than its entries say"
    if any(entry.debit_account != ledger.ESCROW for entry in ended):
        yield "was divided from another account than the escrow"
    back = [entry.credit_account for entry in ended if entry.kind == EntryKind.RELEASE]
    if back not in ([], [row.account_id]):
        yield f"went back to {', '.join(back)}, and not to {row.account_id}"
    yield from _wrong_fees(row, ended)


def _at_another_time(row: Row[Any], entry: Row[Any]) -> bool:
    """A try that failed was paid at its own end; the rest goes back at the last one's. Of a task that is
    removed nobody knows any more whether it had tries."""
    may_differ = row.retries != 0 and entry.kind != EntryKind.RELEASE
    return not may_differ and bool(entry.created_at != row.ended_at)


def _wrong_fees(row: Row[Any], ended: Sequence[Row[Any]]) -> Iterator[str]:
    parts: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in ended:
        if entry.kind in (EntryKind.PAYMENT, EntryKind.FEE):
            parts[entry.id.partition(":")[2]][entry.kind] = entry.amount
    for attempt, part in parts.items():
        payment, fee = part.get(EntryKind.PAYMENT, 0), part.get(EntryKind.FEE, 0)
        if fee != ledger.fee_of(payment + fee, row.fee_percent):
            yield f"paid {payment} CPT for {attempt} and a fee of {fee}, which is not {row.fee_percent} %"


def _chunks(rows: Iterable[Row[Any]]) -> Iterator[list[Row[Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK_ROWS)):
        yield chunk
