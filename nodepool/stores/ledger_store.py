"""The ledger's door: everything that others may ask of it. See docs/money.md."""

from __future__ import annotations

from nodepool.stores.hold_store import Provider, Settled, check_covered, hold, settle, terms_of, void
from nodepool.stores.ledger_move import balance, move, open_account

__all__ = [
    "Provider",
    "Settled",
    "balance",
    "check_covered",
    "hold",
    "move",
    "open_account",
    "settle",
    "terms_of",
    "void",
]
