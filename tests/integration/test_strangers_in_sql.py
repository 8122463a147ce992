"""SQL's side of whose tasks a node takes: the condition, the judge at the claim, and rows from before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Connection, select, text, update

from nodepool.domain.errors import OwnerOnlyError
from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.nodes.node import ENGINE_AWAY, NodeKind, is_owner_only, isolation_of
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from nodepool.stores.sql.owner_only_nodes import takes_strangers
from nodepool.stores.sql.tables import nodes
from tests.support.migrations import alembic_to
from tests.support.stores import add_node, add_task, add_user, place


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    made = Database(empty_database_url)
    migrate(made)
    yield made
    made.close()


TOLD = ("", *Isolation)
DOCKER = ("running", " Ok", ENGINE_AWAY, "unavailable", "")


def test_the_condition_says_of_every_node_what_the_rule_says(database: Database) -> None:
    kinds = itertools.product(NodeKind, TOLD, DOCKER, (True, False))
    expected = {}

    def fill(connection: Connection) -> None:
        owner = add_user(connection, "ada")
        for number, (kind, told, docker, accepts) in enumerate(kinds):
            facts = {"kind": kind, "isolation": told, "docker_status": docker, "accepts_strangers": accepts}
            add_node(connection, owner, f"n{number}", **facts)
            level = isolation_of(told, docker)
            expected[f"n{number}"] = not is_owner_only(kind, level, accepts_strangers=accepts)

    database.write(fill)
    found = database.read(lambda c: set(c.execute(select(nodes.c.id).where(takes_strangers())).scalars()))
    assert found == {name for name, takes in expected.items() if takes}


def test_a_node_that_became_its_owners_alone_cannot_claim_what_was_placed_before(database: Database) -> None:
    def fill(connection: Connection) -> tuple[int, str, str]:
        ada, eve = add_user(connection, "ada"), add_user(connection, "eve")
        add_node(connection, ada, "ada/n")
        own, foreign = add_task(connection, ada), add_task(connection, eve)
        for task in (own, foreign):
            assert place(connection, task, "ada/n")
        connection.execute(update(nodes).values(isolation=Isolation.NONE))
        return ada, own, foreign

    ada, own, foreign = database.write(fill)
    with pytest.raises(OwnerOnlyError, match="ada/n takes its owner's tasks only"):
        database.write(lambda c: task_store.claim_attempt(c, f"{foreign}:1", "ada/n", ada, 2.0))
    assert database.read(lambda c: task_store.find(c, foreign)).state == "PLACED"
    assert database.write(lambda c: task_store.claim_attempt(c, f"{own}:1", "ada/n", ada, 2.0)).id == own


def test_nodes_from_before_are_read_by_their_docker_and_the_way_back_works(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    alembic_to(database, command.upgrade, "0003")
    columns = {
        "hostname": "h", "port": 0, "kind": "agent", "cpu_cores": 1, "cpu_score": 1000, "memory_gb": 1,
        "gpu_score": 0, "gpu_memory_gb": 0, "gpu_name": "", "location": "", "region": "asia", "max_tasks": 1,
        "registered_at": 1.0,
    }  # fmt: skip
    with database.engine.begin() as connection:
        owner = add_user(connection, "ada")
        for name, docker in (("with", "running"), ("without", "unavailable")):
            names = [*columns, "id", "owner_id", "docker_status"]
            values = {**columns, "id": name, "owner_id": owner, "docker_status": docker}
            places = ", ".join(f":{it}" for it in names)
            connection.execute(text(f"INSERT INTO nodes ({', '.join(names)}) VALUES ({places})"), values)
    migrate(database)
    assert database.read(lambda c: set(c.execute(select(nodes.c.id).where(takes_strangers())).scalars())) == {
        "with"
    }
    alembic_to(database, command.downgrade, "0003")
    migrate(database)
    assert {row.id for row in database.read(node_store.active)} == {"with", "without"}
    database.close()
