"""Checks of what the parts talk to: database and ledger, broker and sweep, clocks, the gateway."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from local_pool.doctor.findings import DoctorFinding, fault, ok, warning
from local_pool.gateway_probe import GatewayProbe
from local_pool.pool_place import PoolPlace
from nodepool.domain import broker_fitness
from nodepool.domain.broker_fitness import BrokerUse
from nodepool.domain.broker_owner import BrokerOwner, refusal
from nodepool.domain.errors import NodePoolError, StorageFullError, UnavailableError
from nodepool.domain.sweep_watch import allowed_seconds
from nodepool.settings import Settings
from nodepool.stores.redis import certificates, fitness
from nodepool.stores.redis.broker_status import broker_status, server_time
from nodepool.stores.redis.client import connect
from nodepool.stores.redis.sweep_mark import SweepMarks
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database, translated_errors
from nodepool.stores.sql.migrate import check_known, newest_revision, revision_of
from nodepool.workflows.broker_owner import OwnBroker

_CLOCK_SECONDS, _WRONG_CLOCK_SECONDS = 2.0, 30.0
_LOW, _FULL = 0.8, 0.95
_DAYS_OF_LEDGER = 8
_DAY = 86400.0
_CONNECT_SECONDS = 2.0


def check_database(place: PoolPlace) -> Iterator[DoctorFinding]:
    path = place.database_path
    if path is not None and not path.is_file():
        words = f"there is no database {str(path)!r}"
        yield fault("database", words, "start a gateway, or give the --data-dir or DB_PATH that the pool has")
        return
    database = Database(place.database_url)
    try:
        yield from _open_database(database)
    except UnavailableError as error:
        words = f"{error} ({type(error.__cause__).__name__})"
        yield fault("database", words, "start it, or set DATABASE_URL to where it is; its log says more")
    except StorageFullError as error:
        yield fault("database", str(error), "make room on its disk")
    finally:
        database.close()


def _open_database(database: Database) -> Iterator[DoctorFinding]:
    with translated_errors():
        found, newest = revision_of(database), newest_revision()
    check_known(found)
    if found != newest:
        words = f"the database is at revision {found or 'none'}, and this version has {newest}"
        yield warning("database", words, "a gateway of this version brings it up to date when it starts")
        return
    now = time.time()
    database.write(lambda connection: pool_records.probe_write(connection, now))
    yield ok("database", f"it can be read and written, and is at revision {found}")
    yield from _database_clock(database)
    yield from _ledger(database, now)


def _database_clock(database: Database) -> Iterator[DoctorFinding]:
    theirs = database.read(pool_records.server_time)
    if theirs is not None:
        yield _clock("the database's", theirs)


def _clock(whose: str, theirs: float) -> DoctorFinding:
    apart = theirs - time.time()
    words = f"{whose} clock is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    action = "let both keep time by NTP (chrony, systemd-timesyncd)"
    if abs(apart) > _WRONG_CLOCK_SECONDS:
        return fault("clock", words, action)
    if abs(apart) > _CLOCK_SECONDS:
        return warning("clock", words, action)
    return ok("clock", f"{whose} clock agrees with this machine's")


def _ledger(database: Database, now: float) -> Iterator[DoctorFinding]:
    last = database.read(pool_records.last_verification)
    verify = "run hivemind ledger verify, once a day from a timer"
    if last is None:
        yield warning("ledger", "nobody has verified it yet", verify)
    elif not last.is_right:
        words = "hivemind ledger verify found it wrong"
        yield fault("ledger", words, "change nothing, and see docs/money.md")
    elif now - last.at > _DAYS_OF_LEDGER * _DAY:
        yield warning("ledger", f"it was right {(now - last.at) / _DAY:.0f} days ago", verify)
    else:
        yield ok("ledger", f"it was right {max(0.0, now - last.at) / 3600:.0f} hours ago")


def check_broker(settings: Settings) -> Iterator[DoctorFinding]:
    """`settings`: with the broker's URL, that of `hivemind up` too."""
    client = connect(settings)
    shown = settings.broker.shown
    try:
        certificates.check(client, settings)
        use = BrokerUse(is_local=fitness.is_local(settings), pushes_to_nodes=settings.push_to_nodes)
        try:
            facts = fitness.ask(client)
        except UnavailableError as error:
            words = f"it cannot be reached at {shown}: {error.__cause__ or error}"
            yield fault("broker", words, "start it, or set REDIS_URL to where it is")
            return
        faults, warnings = broker_fitness.faults(facts, use), broker_fitness.warnings(facts, use)
        for words in faults:
            yield fault("broker", f"{facts.name}: {words}", "the pool does not start with it")
        for words in warnings:
            yield warning("broker", f"{facts.name}: {words}", "think about it")
        if not faults:
            yield ok("broker", f"{facts.name} at {shown} will do")
            status = broker_status(client)
            yield from _share("memory", status.memory_used_bytes, status.memory_limit_bytes, "maxmemory")
            yield from _share("connections", status.clients, status.clients_limit, "maxclients")
            yield _clock("the broker's", server_time(client))
            yield from _sweep(SweepMarks(client))
    finally:
        client.close()


def check_broker_owner(place: PoolPlace, settings: Settings) -> Iterator[DoctorFinding]:
    """Whether database and broker are of one pool. What is away the other checks have said."""
    path = place.database_path
    if path is not None and not path.is_file():
        return
    database, client = Database(place.database_url), connect(settings)
    try:
        own = OwnBroker(database, client)
        with translated_errors():
            owner, mark = own.owner()
        if owner is BrokerOwner.ANOTHER:
            action = "nothing starts until the settings are right or the broker was taken"
            yield fault("owner", refusal(mark, own.pool_id), action)
        elif owner is BrokerOwner.OURS:
            yield ok("owner", "the broker is this database's")
    except NodePoolError:
        return
    finally:
        client.close()
        database.close()


def _share(what: str, used: int, limit: int, setting: str) -> Iterator[DoctorFinding]:
    if not limit:
        return
    words = f"it uses {used / limit:.0%} of its {what}"
    if used >= _FULL * limit:
        yield fault("broker", words, f"raise its {setting}")
    elif used >= _LOW * limit:
        yield warning("broker", words, f"raise its {setting}")
    else:
        yield ok("broker", words)


def _sweep(marks: SweepMarks) -> Iterator[DoctorFinding]:
    seen = marks.seen()
    action = "start a dispatcher, or look at the log of the one that runs"
    if seen is None:
        yield fault(
            "sweep", "no dispatcher has swept for a day, or since the broker forgot everything", action
        )
    elif seen.age_seconds > allowed_seconds(seen.mark):
        yield fault("sweep", f"no dispatcher has swept for {seen.age_seconds:.0f} s", action)
    elif not seen.mark.places:
        yield fault("sweep", "the dispatcher sweeps and places no tasks", "start it again, and keep its log")
    else:
        yield ok("sweep", f"a dispatcher swept {seen.age_seconds:.1f} s ago")


def check_gateway(settings: Settings, address: str) -> Iterator[DoctorFinding]:
    if not _listens(address):
        yield fault("gateway", f"nothing listens on {address}", "start a gateway, or look at its log")
        return
    probe = GatewayProbe(address, certificate=settings.grpc_tls_cert_file)
    try:
        told = probe.problems()
    finally:
        probe.close()
    if told is None:
        words = f"what listens on {address} does not answer as a gateway of this pool"
        yield fault("gateway", words, "look at what has the port, and at the gateway's log")
    elif told:
        yield fault("gateway", f"it serves on {address} and says: {told}", "see the other findings")
    else:
        yield ok("gateway", f"it serves on {address} and finds all well")
    for part, port in (
        ("gateway", settings.gateway_metrics_port),
        ("dispatcher", settings.dispatcher_metrics_port),
    ):
        if port and not _listens(f"{settings.metrics_host}:{port}"):
            words = f"the {part}'s metrics are not served on {settings.metrics_host}:{port}"
            yield warning(
                "metrics", words, "look at its log: the port may be taken, or the part is elsewhere"
            )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
