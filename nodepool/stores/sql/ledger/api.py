"""The ledger's door: everything that others may ask of it. See docs/money.md."""

from __future__ import annotations

from nodepool.stores.sql.ledger.holds import Provider, Settled, check_covered, hold, settle, terms_of, void
from nodepool.stores.sql.ledger.postings import balance, lock, move, open_account
from nodepool.stores.sql.ledger.report import Report
from nodepool.stores.sql.ledger.statements import Statement, StatementLine, find_entry, reverse, statement
from nodepool.stores.sql.ledger.verify import verify, verify_database

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
