"""`hivemind admin broker`: whose the broker is, and how that of another pool becomes this one's.

On the pool's own host, with its settings. By itself no part of a pool ever takes a broker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from local_pool.in_use import check_unused, gateway_serves
from local_pool.pool_place import PoolPlace, check_there, data_dir_option, find_place
from nodepool.domain.broker_owner import NAMED_CHARACTERS, BrokerOwner, refusal
from nodepool.domain.errors import NodePoolError
from nodepool.stores.redis.client import Client, connect
from nodepool.stores.redis.emptying import empty
from nodepool.stores.redis.pool_mark import PoolMark
from nodepool.stores.sql.database import Database
from nodepool.workflows.broker_owner import OwnBroker


@click.group()
def broker() -> None:
    """The pool's broker: whose it is, and how that of another pool becomes this one's."""


@broker.command()
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def owner(data_dir: Path | None, *, as_json: bool) -> None:
    """Tell whose broker it is. Ends with 1 where it is another pool's."""
    place = _place_with_broker(data_dir)
    with _opened(place) as (own, _):
        whose, mark = own.owner()
        pool_id = own.pool_id
    is_anothers = whose is BrokerOwner.ANOTHER
    words = {
        BrokerOwner.OURS: f"the broker is this pool's ({pool_id[:NAMED_CHARACTERS]})",
        BrokerOwner.NOBODY: "the broker is nobody's yet: the pool takes it when it starts",
    }
    if as_json:
        click.echo(json.dumps({"pool": pool_id, "broker": mark, "owner": whose.value}))
    else:
        click.echo(refusal(mark, pool_id) if is_anothers else words[whose])
    raise SystemExit(1 if is_anothers else 0)


@broker.command()
@data_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def take(data_dir: Path | None, *, yes: bool) -> None:
    """Make the broker this pool's, whoever's it was. That pool must be stopped.

    What it had there goes: nodes, reservations, hints. Its tasks are in its own database, and stay there.
    Its agents get in no more; the nodes of this pool enrol again by themselves.
    """
    place = find_place(data_dir)
    check_there(place)
    if not yes:
        click.confirm("All that another pool keeps in this broker goes. Take it?", abort=True)
    if place.has_own_broker:
        _begin_anew(place)
        return
    with _opened(place) as (own, client):
        mark = PoolMark(client)
        if mark.read() != own.pool_id and gateway_serves(mark):
            raise click.ClickException(
                "a gateway of another pool serves on this broker: stop that pool first"
            )
        removed = empty(client)
        mark.take(own.pool_id)
    click.echo(f"the broker is this pool's now ({own.pool_id[:NAMED_CHARACTERS]}); {removed} keys are gone")


def _begin_anew(place: PoolPlace) -> None:
    """The embedded one is put aside: `hivemind up` makes another."""
    folder = (place.data_dir or Path()) / "valkey"
    with check_unused(place):
        if not folder.is_dir():
            raise click.ClickException(f"there is no broker in {place.data_dir}: `hivemind up` makes one")
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = folder.rename(folder.with_name(f"valkey-before-{moment}"))
    click.echo(f"`hivemind up` makes a new broker; the old one was put aside: {aside}")


def _place_with_broker(data_dir: Path | None) -> PoolPlace:
    place = find_place(data_dir)
    check_there(place)
    if place.has_own_broker:
        raise click.ClickException(
            "the broker is `hivemind up`'s own, in its data directory; it says at its start whose it is"
        )
    return place


@contextmanager
def _opened(place: PoolPlace) -> Iterator[tuple[OwnBroker, Client]]:
    database = Database(place.database_url)
    try:
        with closing(connect(place.settings)) as client:
            yield OwnBroker(database, client), client
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.close()
