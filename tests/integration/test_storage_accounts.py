"""What an account keeps in the pool is counted and bounded, and what never ran keeps nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select, text, update

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql import migrate, storage_accounting
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import storage_accounts, tasks
from nodepool.workflows import stored_files
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused, upload
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import new_task_id, package, script
from tests.support.valkey import TestValkey

_MIB = 1 << 20


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, max_stored_mb_per_user=1)
    yield made
    made.close()


def _package(size: int = 300_000) -> bytes:
    return package({"main.py": "print('hello')", "data": os.urandom(size)})


def _kept(account: Account) -> int:
    request = pb.GetBalanceRequest(token=account.token)
    answer = account.stubs.users.GetBalance(request, timeout=CALL_SECONDS)
    assert answer.stored_bytes_limit == _MIB
    return answer.stored_bytes


def _request(data: bytes, task_id: str = "") -> pb.UploadTaskRequest:
    return pb.UploadTaskRequest(task_id=task_id or new_task_id(), task_zip=data)


def test_tasks_that_are_stopped_before_they_ran_keep_nothing(gateway: InnerGateway) -> None:
    rude, before = gateway.someone(), gateway.packages()
    for _ in range(8):  # more than the bound in all
        task_id = rude.submit(_package())
        assert _kept(rude) > 300_000
        assert rude.stop(task_id).success
    assert _kept(rude) == 0
    assert gateway.packages() == before


def test_the_bound_is_told_and_nothing_over_it_is_kept(gateway: InnerGateway) -> None:
    rude = gateway.someone()
    data = _package()
    first = rude.submit(data)
    for _ in range(2):
        rude.submit(_package())
    before = gateway.packages()
    code, words = refused(lambda: upload(rude, _request(_package())))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1.0 MiB" in words
    assert gateway.packages() == before
    # The same package for more tasks takes no more room, and counts once.
    kept = _kept(rude)
    second = rude.submit(data)
    assert _kept(rude) == kept
    rude.stop(first)
    assert _kept(rude) == kept
    rude.stop(second)
    assert _kept(rude) == kept - len(data)
    assert upload(rude, _request(_package())).success, "there is room again"


def test_a_package_that_several_have_counts_for_each_and_stays_as_long_as_one_needs_it(
    gateway: InnerGateway,
) -> None:
    ada, bob = gateway.someone(), gateway.someone()
    data, before = _package(), gateway.packages()
    of_ada, of_bob = ada.submit(data), bob.submit(data)
    assert _kept(ada) == _kept(bob) == len(data)
    ada.stop(of_ada)
    assert (_kept(ada), _kept(bob)) == (0, len(data))
    assert len(gateway.packages()) == len(before) + 1
    assert upload(ada, _request(data, of_ada)).repeated_upload, "the same upload again changes nothing"
    bob.stop(of_bob)
    assert gateway.packages() == before


def test_an_upload_that_is_refused_in_the_end_leaves_nothing(gateway: InnerGateway) -> None:
    rude = gateway.someone()
    task_id, before = rude.submit(script("print('mine')")), gateway.packages()
    for _ in range(3):
        code, _ = refused(lambda: upload(rude, _request(_package(), task_id)))
        assert code is grpc.StatusCode.ALREADY_EXISTS
    assert gateway.packages() == before
    # Two at once of one id: one of them is too late, and its package goes.
    both = new_task_id()
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(upload, rude, _request(_package(1000), both)) for _ in range(2)]
    assert sorted(it.exception() is None for it in answers) == [False, True]
    assert len(gateway.packages()) == len(before) + 1


def test_a_package_that_is_needed_is_never_lost_however_others_of_it_come_and_go(
    gateway: InnerGateway,
) -> None:
    people = [gateway.someone() for _ in range(4)]
    data = script("print('the same for all')")

    def come_and_go(person: Account) -> list[str]:
        left = []
        for number in range(25):
            task_id = person.submit(data)
            if number % 8 == 7:
                left.append(task_id)
            else:
                person.stop(task_id)
            assert not left or gateway.gateway.files.package_bytes(_sha(gateway, left[0])) == data
        return left

    with ThreadPoolExecutor(len(people)) as threads:
        left = [task_id for found in threads.map(come_and_go, people) for task_id in found]
    assert gateway.gateway.files.package_bytes(_sha(gateway, left[0])) == data
    for person, task_id in zip(people, left[:: len(left) // len(people)], strict=True):
        assert _kept(person) == len(data), task_id


def _sha(gateway: InnerGateway, task_id: str) -> str:
    query = select(tasks.c.package_sha256).where(tasks.c.id == task_id)
    return str(gateway.gateway.database.read(lambda connection: connection.execute(query).scalar_one()))


def test_results_count_for_the_tasks_owner_and_end_no_run(gateway: InnerGateway) -> None:
    """What a node returned is counted when the task has ended, and past the bound new tasks are refused."""
    owner = gateway.someone()
    task_id = owner.submit(script("print('big')"))
    pool = gateway.gateway

    def ended(connection: Any) -> None:
        connection.execute(
            update(tasks)
            .where(tasks.c.id == task_id)
            .values(
                state="SUCCEEDED", started_at=1.0, finished_at=2.0, result_bytes=2 * _MIB,
                result_attempt=f"{task_id}:1",
            )
        )  # fmt: skip

    pool.database.write(ended)
    before = _kept(owner)
    for _ in range(2):  # asked again it changes nothing
        due = pool.database.read(lambda connection: storage_accounting.due(connection, 100))
        stored_files.settle(pool.database, pool.files, due)
        assert _kept(owner) == before + 2 * _MIB
    assert not pool.database.read(lambda connection: storage_accounting.due(connection, 100))
    assert pool.files.has_package(_sha(gateway, task_id)), "a task that ran keeps its package"
    code, words = refused(lambda: upload(owner, _request(_package(1000))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2.0 MiB of the 1.0 MiB" in words


def test_uploads_at_once_do_not_get_past_the_bound_together(gateway: InnerGateway) -> None:
    rude = gateway.someone()
    packages = [_package(200_000) for _ in range(24)]
    with ThreadPoolExecutor(len(packages)) as threads:
        answers = [threads.submit(upload, rude, _request(it)) for it in packages]
    accepted = [it for it in answers if it.exception() is None]
    assert 1 <= len(accepted) <= _MIB // 200_000
    assert _kept(rude) <= _MIB


# -- the migration -----------------------------------------------------------------------------------
@pytest.fixture
def old(empty_database_url: str) -> Iterator[Database]:
    """A database of a version before, with tasks."""
    database = Database(empty_database_url)
    _upgrade(database, "0003")
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (id, username, password_hash, credit_score, created_at) "
                "VALUES (1, 'ada', '', 50, 1), (2, 'bob', '', 50, 1), (3, 'eve', '', 50, 1)"
            )
        )
        for task_id, owner, sha, state, started in (
            ("ran", 1, "a" * 64, "SUCCEEDED", True), ("same", 1, "a" * 64, "QUEUED", False),
            ("other", 1, "b" * 64, "STOPPED", False), ("bobs", 2, "a" * 64, "QUEUED", False),
        ):  # fmt: skip
            ended = state in {"SUCCEEDED", "STOPPED"}
            connection.execute(
                text(
                    "INSERT INTO tasks (id, owner_id, state, cpu_score, memory_gb, gpu_score, gpu_memory_gb, "
                    "gpu_name, region, tier, image, network, max_minutes, package_sha256, package_bytes, "
                    "result_bytes, result_attempt, created_at, updated_at, hinted_at, started_at, "
                    "finished_at) "
                    "VALUES (:id, :owner, :state, 0, 0, 0, 0, '', 'any', 'normal', 'i', :no, 1, :sha, 1000, "
                    ":result, :attempt, 1, 1, 1, :started, :finished)"
                ),
                {
                    "id": task_id, "owner": owner, "state": state, "no": False, "sha": sha,
                    "result": 70 if started else 0, "attempt": "ran:1" if started else "",
                    "started": 1.0 if started else None, "finished": 2.0 if ended else None,
                },
            )  # fmt: skip
    yield database
    database.close()


def _upgrade(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql("COMMIT") if database.is_sqlite else connection.commit()


def test_what_was_kept_before_is_counted_and_given_up_where_it_never_ran(
    old: Database, tmp_path: Path
) -> None:
    migrate.migrate(old)
    files = FileStore(tmp_path, b"k" * 32)

    def counted() -> dict[int, int]:
        rows = old.read(lambda connection: connection.execute(select(storage_accounts)).all())
        return {row.user_id: row.bytes for row in rows}

    assert counted() == {1: 2070, 2: 1000, 3: 0}
    assert old.read(lambda connection: storage_accounting.due(connection, 10)) == ["other"]
    assert stored_files.settle(old, files, ["ran", "same", "other", "bobs"]) == 1
    assert counted() == {1: 1070, 2: 1000, 3: 0}
    for user_id, stored in ((1, 1070), (2, 1000), (3, 0)):
        assert old.write(lambda c, user_id=user_id: storage_accounting.recount(c, user_id)) == stored
