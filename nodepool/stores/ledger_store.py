"""The ledger's door: everything that others may ask of it. See docs/money.md."""

from __future__ import annotations

from nodepool.stores.hold_store import Provider, Settled, check_covered, hold, settle, terms_of, void
from nodepool.stores.ledger_move import balance, lock, move, open_account
from nodepool.stores.ledger_report import Report
from nodepool.stores.ledger_statement import Statement, StatementLine, find_entry, reverse, statement
from nodepool.stores.ledger_verify import verify, verify_database

__all__ = [
    "Provider",
    "Report",
    "Settled",
    "Statement",
    "StatementLine",
    "balance",
    "check_covered",
    "find_entry",
    "hold",
    "lock",
    "move",
    "open_account",
    "reverse",
    "settle",
    "statement",
    "terms_of",
    "verify",
    "verify_database",
    "void",
]
