"""The ledger's door: everything that others may ask of it. See docs/money.md."""

from __future__ import annotations

from nodepool.stores.ledger_move import balance, move, open_account

__all__ = ["balance", "move", "open_account"]
