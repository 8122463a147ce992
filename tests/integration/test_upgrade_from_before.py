"""What the version before left behind, and what it still says: database and protocol.

`rows_0008.json.gz` are the rows of a pool that the version with revision 0008 has filled itself, and
`wire_0008.binpb.gz` is the protocol as it knew it.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from alembic import command
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from sqlalchemy import MetaData, insert, inspect, select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import migrate
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from nodepool.stores.sql.tables import tasks
from tests.support.gateway import GatewayProcess
from tests.support.migrations import alembic_to
from tests.support.tasks import script
from tests.support.valkey import TestValkey

DATA = Path(__file__).parents[1] / "support" / "data"
BEFORE = "0008"
ROWS: dict[str, list[dict[str, Any]]] = json.loads(gzip.decompress((DATA / "rows_0008.json.gz").read_bytes()))


def _tables(database: Database) -> MetaData:
    """As they are there, whatever this version has."""
    found = MetaData()
    found.reflect(database.engine)
    return found


def _read(database: Database) -> dict[str, list[dict[str, Any]]]:
    found = _tables(database)
    with database.engine.connect() as connection:
        return {
            name: [dict(row._mapping) for row in connection.execute(select(found.tables[name]))]
            for name in ROWS
        }


@pytest.fixture
def before(empty_database_url: str) -> str:
    """The database of the version before, filled."""
    database = Database(empty_database_url)
    alembic_to(database, command.upgrade, BEFORE)
    found = _tables(database)
    with database.engine.begin() as connection:
        for name in ("ledger_head", "ledger_accounts"):  # the migration has made the system's own
            connection.execute(found.tables[name].delete())
        for table in found.sorted_tables:
            if table.name in ROWS:
                connection.execute(insert(table), ROWS[table.name])
    database.close()
    return empty_database_url


def _sorted(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True, default=float) for row in rows)


def test_its_database_is_taken_over_and_goes_back_with_every_row(before: str) -> None:
    database = Database(before)
    migrate.migrate(database)
    assert migrate.revision_of(database) == migrate.newest_revision()
    assert verify_database(database).problems == []
    states = database.read(lambda c: c.execute(select(tasks.c.id, tasks.c.state)).all())
    assert {row.id: row.state for row in states} == {row["id"]: row["state"] for row in ROWS["tasks"]}
    migrate.downgrade(database, BEFORE)
    for name, rows in _read(database).items():
        assert _sorted(rows) == _sorted(ROWS[name]), name
    assert "tasks" in inspect(database.engine).get_table_names()
    database.close()


# -- the wire ---------------------------------------------------------------------------------------------
def _old() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    file.ParseFromString(gzip.decompress((DATA / "wire_0008.binpb.gz").read_bytes()))
    return file


def test_every_field_that_it_knew_is_what_it_was() -> None:
    new = {message.full_name: message for message in _messages(pb.DESCRIPTOR.message_types_by_name.values())}
    for message in _old().message_type:
        now = new[f"{pb.DESCRIPTOR.package}.{message.name}".lstrip(".")]
        for field in message.field:
            found = now.fields_by_number.get(field.number)
            assert found is not None, f"{message.name}.{field.name} is gone"
            repeated = field.label == FieldDescriptor.LABEL_REPEATED
            assert (found.name, found.type, found.is_repeated) == (field.name, field.type, repeated)


def _messages(found: Any) -> list[Any]:
    return [it for message in found for it in (message, *_messages(message.nested_types))]


@pytest.fixture(scope="module")
def words() -> Any:
    """Message classes of the version before, by name."""
    pool = descriptor_pool.DescriptorPool()
    file = _old()
    pool.Add(file)

    def find(name: str) -> Any:
        prefix = f"{file.package}." if file.package else ""
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{prefix}{name}"))

    return find


def _call(channel: grpc.Channel, service: str, method: str, request: Any, answer: Any, token: str) -> Any:
    package = f"{pb.DESCRIPTOR.package}." if pb.DESCRIPTOR.package else ""
    path = f"/{package}{service}/{method}"
    made = channel.unary_unary(
        path, request_serializer=lambda it: it.SerializeToString(), response_deserializer=answer.FromString
    )
    return made(request, timeout=20, metadata=[("authorization", f"Bearer {token}")] if token else [])


def test_a_client_and_an_agent_of_the_version_before_are_understood(
    valkey: TestValkey, tmp_path: Path, words: Any
) -> None:
    gateway = GatewayProcess(tmp_path, valkey, NEWCOMER_BALANCE_CPT="100000").start_serving()
    try:
        channel, token = gateway.channel, ""

        def ask(service: str, method: str, request: str, answer: str, **fields: Any) -> Any:
            message = words(request)(**fields)
            return _call(channel, service, method, message, words(answer), token)

        login = {"username": "ada", "password": "a long password"}
        assert ask("UserService", "Register", "RegisterRequest", "RegisterResponse", **login).success
        token = ask("UserService", "Login", "LoginRequest", "LoginResponse", **login).token
        sent = ask(
            "MasterNodeService", "UploadTask", "UploadTaskRequest", "UploadTaskResponse",
            task_id="t1", task_zip=script("print(1)"), memory_gb=1, cpu_score=10
        )  # fmt: skip
        assert sent.success, sent.message
        polled = ask(
            "MasterNodeService", "PollTaskStatus", "PollTaskStatusRequest", "PollTaskStatusResponse",
            task_id="t1",
        )  # fmt: skip
        assert polled.status == "PENDING"
        node = {
            "node_id": "ada/box", "hostname": "box", "cpu_cores": 2, "memory_gb": 4, "cpu_score": 2000,
            "location": "Asia", "port": 50053, "docker_status": "Running", "kind": "agent",
        }  # fmt: skip
        known = words("RegisterWorkerNodeRequest").DESCRIPTOR.fields_by_name
        joined = ask(
            "NodeManagerService", "RegisterWorkerNode", "RegisterWorkerNodeRequest",
            "StatusResponse", **{name: value for name, value in node.items() if name in known},
        )  # fmt: skip
        assert joined.success, joined.message
    finally:
        gateway.stop()
        channel.close()
