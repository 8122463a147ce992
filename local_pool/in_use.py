"""Whether a pool runs on a place, or on a broker: nothing of it may be replaced then.

Asks the lock of `hivemind up` and the database itself, since parts may run without `hivemind up`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from local_pool.pool_place import PoolPlace
from local_pool.private_files import DataDirInUseError, DirLock
from nodepool.domain.errors import NodePoolError
from nodepool.stores.redis.pool_mark import PoolMark
from nodepool.stores.sql.usage_check import others_connected

# Its sign is renewed every second.
_GATEWAY_LOOKS = 5
_LOOK_SECONDS = 0.5
_STOP = "stop the pool first (gateways, dispatchers and `hivemind up`)"


@contextmanager
def check_unused(place: PoolPlace) -> Iterator[None]:
    """Raises ClickException where the pool runs; meanwhile no `hivemind up` can begin on the place."""
    lock = None
    try:
        if place.data_dir is not None and place.data_dir.is_dir():
            lock = DirLock(place.data_dir / "up.lock")
        others = others_connected(place.database_url)
        if others:
            raise click.ClickException(f"the database is in use ({others}): {_STOP}")
        yield
    except DataDirInUseError as error:
        raise click.ClickException(f"a pool runs on {place.data_dir}: {_STOP}") from error
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if lock is not None:
            lock.release()


def gateway_serves(mark: PoolMark) -> bool:
    """Whether a gateway works on the broker now, of whatever database. Raises UnavailableError."""
    before = mark.gateway_left_ms()
    if not before:
        return False
    for _ in range(_GATEWAY_LOOKS):
        time.sleep(_LOOK_SECONDS)
        now = mark.gateway_left_ms()
        if now > before:
            return True
        before = now
    return False
