"""Connections to PostgreSQL have bounds on silence, and what an operator writes into the URL goes first."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from nodepool import keepalive
from nodepool.stores.sql.database import Database


class _AskedError(Exception):
    """Instead of a connection."""


def asked_for(url: str) -> dict[str, Any]:
    """What the driver is given."""
    database, found = Database(url), dict[str, Any]()

    @event.listens_for(database.engine, "do_connect")
    def _keep(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        found.update(options)
        raise _AskedError

    with pytest.raises(_AskedError):
        database.engine.connect()
    database.close()
    return found


def test_the_kernel_ends_what_nobody_confirms() -> None:
    options = asked_for("postgresql://ada@db.example.org/pool")
    assert options["tcp_user_timeout"] == keepalive.UNCONFIRMED_SECONDS * 1000
    probed = options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"]
    assert (options["keepalives"], probed <= 10) == (1, True)
    assert options["connect_timeout"] <= 5


def test_what_the_url_says_goes_first() -> None:
    options = asked_for("postgresql://ada@db.example.org/pool?connect_timeout=20&tcp_user_timeout=60000")
    assert (options["connect_timeout"], options["tcp_user_timeout"]) == ("20", "60000")
    assert options["keepalives"] == 1
