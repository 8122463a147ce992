"""The ledger's door: everything that others may ask of it. See docs/money.md."""

from __future__ import annotations

from nodepool.domain.money.settlement import Provider
from nodepool.stores.sql.ledger.holds import (
    Settlement,
    check_covered,
    end,
    find_held,
    hold,
    pay_try,
    settle,
    terms_of,
    void,
)
from nodepool.stores.sql.ledger.postings import balance, balances, lock, move, open_account
from nodepool.stores.sql.ledger.report import LedgerReport
from nodepool.stores.sql.ledger.statements import (
    AccountMovement,
    AccountStatement,
    entry_exists,
    reverse,
    statement,
)
from nodepool.stores.sql.ledger.together import TOGETHER
from nodepool.stores.sql.ledger.verify import verify, verify_database

__all__ = [
    "TOGETHER",
    "AccountMovement",
    "AccountStatement",
    "LedgerReport",
    "Provider",
    "Settlement",
    "balance",
    "balances",
    "check_covered",
    "end",
    "entry_exists",
    "find_held",
    "hold",
    "lock",
    "move",
    "open_account",
    "pay_try",
    "reverse",
    "settle",
    "statement",
    "terms_of",
    "verify",
    "verify_database",
    "void",
]
