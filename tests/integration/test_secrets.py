"""Secrets at the gateway: kept encrypted, told to nobody, given with the claim, and what becomes of a task
that cannot be given one. Real gRPC, SQL and broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from nodepool.domain.capabilities import ALL, Capability
from nodepool.domain.errors import StateConflictError
from nodepool.domain.tasks.run_secrets import MAX_OF_USER, MAX_VALUE_BYTES
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.encryption import key_from_secret
from nodepool.stores.sql import migrate, tasks as task_store, user_secrets as secret_store
from nodepool.stores.sql.tables import nodes, tasks, users
from nodepool.stores.sql.user_secrets import StoredSecret
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE, lines_of, new_job_id, submit_array
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.stores import add_task, add_user, migrated, place
from tests.support.tasks import new_task_id
from tests.support.valkey import TestValkey

BEFORE = "0020"  # the revision before secrets
VALUE = "a-value-that-nobody-reads-é\n"
NO_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOT_NOW = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, storage_key="k" * 32)
    yield made
    made.close()


def put(user: Account, name: str, value: str = VALUE) -> pb.SetSecretResponse:
    request = pb.SetSecretRequest(name=name, value=value)
    return user.stubs.users.SetSecret(request, metadata=user.metadata, timeout=CALL_SECONDS)


def listed(user: Account) -> pb.ListSecretsResponse:
    request = pb.ListSecretsRequest()
    return user.stubs.users.ListSecrets(request, metadata=user.metadata, timeout=CALL_SECONDS)


def remove(user: Account, name: str) -> pb.RemoveSecretResponse:
    request = pb.RemoveSecretRequest(name=name)
    return user.stubs.users.RemoveSecret(request, metadata=user.metadata, timeout=CALL_SECONDS)


def node_of(gateway: InnerGateway, owner: Account, **facts: Any) -> str:
    """An agent of this user, whose engine a probe has seen: its trust is its owner's."""
    node = pb.RegisterWorkerNodeRequest(
        node_id=f"{owner.username}/node", hostname="host", cpu_cores=4, memory_gb=4, kind="agent",
        docker_status="running", isolation="container", capabilities=list(ALL),
    )  # fmt: skip
    owner.stubs.nodes.RegisterWorkerNode(node, metadata=owner.metadata, timeout=CALL_SECONDS)
    facts = {"engine_shown": True, **facts}
    gateway.gateway.database.write(
        lambda c: c.execute(nodes.update().where(nodes.c.id == node.node_id).values(facts))
    )
    return node.node_id


def claim(
    gateway: InnerGateway, provider: Account, task: str, *, number: int = 1, able: tuple[str, ...] = ALL
) -> pb.AttemptSpec:
    """The task is placed on the provider's node, which claims it."""
    node_id = f"{provider.username}/node"
    gateway.gateway.database.write(lambda c: place(c, task, node_id, number=number))
    request = pb.ClaimAttemptRequest(attempt_id=f"{task}:{number}", node_id=node_id, capabilities=able)
    answers = provider.stubs.nodes.ClaimAttempt(request, metadata=provider.metadata, timeout=CALL_SECONDS)
    return next(iter(answers)).spec


def claim_refused(gateway: InnerGateway, provider: Account, task: str, **how: Any) -> str:
    with pytest.raises(grpc.RpcError) as told:
        claim(gateway, provider, task, **how)
    assert told.value.code() is NOT_NOW
    return str(told.value.details())


def test_a_secret_is_set_listed_replaced_and_removed_and_never_told(gateway: InnerGateway) -> None:
    user, other = gateway.someone(), gateway.someone()
    assert (put(user, "TOKEN").replaced, put(user, "A_KEY").replaced) == (False, False)
    assert put(user, "TOKEN", "another").replaced
    found = listed(user)
    assert [secret.name for secret in found.secrets] == ["A_KEY", "TOKEN"]
    assert all(secret.set_at > 0 and not secret.unreadable for secret in found.secrets)
    assert VALUE.strip() not in str(found)
    assert not listed(other).secrets
    assert refused(lambda: remove(other, "TOKEN"))[0] is NOT_FOUND
    assert remove(user, "TOKEN").waiting_tasks == 0
    assert refused(lambda: remove(user, "TOKEN")) == (NOT_FOUND, "you have no secret TOKEN")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("two words", VALUE, "letters, digits and underscores"),
        ("x" * 65, VALUE, "at most 64 letters"),
        ("T", "", "is empty"),
        ("T", "x" * (MAX_VALUE_BYTES + 1), "over the 16384 bytes"),
        ("T", f"{VALUE}\0", "NUL"),
    ],
)
def test_what_is_no_secret_is_refused_and_its_value_is_not_repeated(
    gateway: InnerGateway, name: str, value: str, words: str
) -> None:
    user = gateway.someone()
    code, told = refused(lambda: put(user, name, value))
    assert code is NO_ARGUMENT
    assert words in told
    assert VALUE.strip() not in told
    assert not listed(user).secrets


def test_a_user_has_so_many_secrets(gateway: InnerGateway) -> None:
    user = gateway.someone()
    user_id = gateway.user_id(user)
    for number in range(MAX_OF_USER):
        secret = StoredSecret(f"S{number}", b"", 1, 1.0)
        gateway.gateway.database.write(lambda c: secret_store.put(c, user_id, secret))  # noqa: B023
    code, told = refused(lambda: put(user, "ONE_MORE"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "you have 100 secrets, as many as a user may have: remove one" in told
    assert put(user, "S0").replaced


def test_a_pool_without_a_storage_key_keeps_none(
    gateway: InnerGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = gateway.someone()
    monkeypatch.setattr(gateway.gateway.secret_box, "may_seal", False)
    code, told = refused(lambda: put(user, "TOKEN"))
    assert code is NOT_NOW
    assert "its operator has set no STORAGE_KEY" in told


def test_the_claim_has_the_values_and_nothing_else_of_the_pool_has(gateway: InnerGateway) -> None:
    user = gateway.someone()
    put(user, "TOKEN")
    put(user, "DB", "second-value-of-it")
    node_of(gateway, user)
    task = user.submit(PACKAGE, secrets=["TOKEN", "DB=PGPASSWORD"], environment={"A": "1"})
    assert list(user.detail(task).secrets) == ["DB=PGPASSWORD", "TOKEN"]
    put(user, "DB", "changed-before-it-ran")
    spec = claim(gateway, user, task)
    assert dict(spec.secrets) == {"TOKEN": VALUE, "PGPASSWORD": "changed-before-it-ran"}
    assert dict(spec.environment) == {"A": "1"}
    # Asked again, it answers the same.
    assert claim(gateway, user, task).secrets == spec.secrets
    with sqlite3.connect(gateway.settings.db_path) as database:
        dump = "\n".join(database.iterdump())
    for value in (VALUE.strip(), "changed-before-it-ran", "second-value-of-it"):
        assert value not in dump
        assert value.encode().hex() not in dump.lower()
    assert VALUE.strip() not in str(user.poll(task))


def test_every_task_of_an_array_is_given_them(gateway: InnerGateway) -> None:
    user, job_id = gateway.someone(), new_job_id()
    node_of(gateway, user)
    with pytest.raises(grpc.RpcError, match="you have no secret TOKEN") as unknown:
        submit_array(user, job_id, lines_of([(0, []), (7, [])]), secrets=["TOKEN"])
    assert unknown.value.code() is NOT_FOUND
    put(user, "TOKEN")
    submit_array(user, job_id, lines_of([(0, []), (7, [])]), secrets=["TOKEN"])
    spec = claim(gateway, user, f"{job_id}.7")
    assert dict(spec.secrets) == {"TOKEN": VALUE}
    assert spec.environment["HIVEMIND_INDEX"] == "7"


def test_a_task_is_refused_for_secrets_that_it_cannot_be_given(gateway: InnerGateway) -> None:
    user = gateway.someone()
    put(user, "TOKEN")
    for number in range(3):
        put(user, f"LARGE{number}", "x" * MAX_VALUE_BYTES)
    for asked, code, words in (
        (["TOKEN", "TOKN"], NOT_FOUND, "you have no secret TOKN, but these: LARGE0, LARGE1, LARGE2, TOKEN"),
        (["LARGE0", "LARGE1", "LARGE2"], NO_ARGUMENT, "have 49152 bytes together"),
        (["TOKEN=HOME"], NO_ARGUMENT, "HOME (it is a folder of the run's sandbox)"),
        (["TOKEN=A"], NO_ARGUMENT, "A is both a variable and a secret"),
    ):
        task = new_task_id()
        found, told = refused(lambda: user.submit(PACKAGE, task, secrets=asked, environment={"A": ""}))  # noqa: B023
        assert found is code
        assert words in told
        assert refused(lambda: user.poll(task))[0] is NOT_FOUND  # noqa: B023
        dry = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(secrets=asked, environment={"A": ""}))
        with pytest.raises(grpc.RpcError) as dry_told:
            user.stubs.tasks.ExplainTask(dry, metadata=user.metadata, timeout=CALL_SECONDS)
        assert (dry_told.value.code(), dry_told.value.details()) == (found, told)


def test_a_repeated_upload_is_the_same_only_with_the_same_secrets(gateway: InnerGateway) -> None:
    user = gateway.someone()
    put(user, "TOKEN")
    task = user.submit(PACKAGE, secrets=["TOKEN"])
    remove(user, "TOKEN")
    assert user.submit(PACKAGE, task, secrets=["TOKEN"]) == task
    for other in ({}, {"secrets": ["TOKEN=T"]}, {"secrets": ["TOKEN"], "secrets_on_low_trust": True}):
        code, _ = refused(lambda: user.submit(PACKAGE, task, **other))  # noqa: B023
        assert code is grpc.StatusCode.ALREADY_EXISTS


def test_an_agent_that_passes_no_secrets_on_does_not_get_the_task(gateway: InnerGateway) -> None:
    user = gateway.someone()
    put(user, "TOKEN")
    node_of(gateway, user)
    task = user.submit(PACKAGE, secrets=["TOKEN"])
    told = claim_refused(gateway, user, task, able=(Capability.INPUTS,))
    assert "passes no secrets on" in told
    assert user.detail(task).state == "QUEUED"


def test_a_node_of_low_trust_gets_the_task_only_where_its_owner_says_so(gateway: InnerGateway) -> None:
    user, provider = gateway.someone(), gateway.someone()
    put(user, "TOKEN")
    node_id = node_of(gateway, provider)
    task = user.submit(PACKAGE, secrets=["TOKEN"])
    # It was trusted when the task was placed.
    score = users.update().where(users.c.id == gateway.user_id(provider)).values(credit_score=10)
    gateway.gateway.database.write(lambda c: c.execute(score))
    told = claim_refused(gateway, provider, task)
    assert f"node {node_id} is of low trust, and may not have the task's secrets" in told
    assert VALUE.strip() not in told
    detail = user.detail(task)
    assert detail.state == "QUEUED"
    (attempt,) = detail.attempts
    assert (attempt.state, attempt.reason_class) == ("refused", "node_for_task")
    assert "its owner could read the task's secrets" in attempt.reason
    willing = user.submit(PACKAGE, secrets=["TOKEN"], secrets_on_low_trust=True)
    assert claim(gateway, provider, willing).secrets["TOKEN"] == VALUE
    # A node of one's own is always trusted.
    put(provider, "TOKEN", "the provider's")
    own = provider.submit(PACKAGE, secrets=["TOKEN"])
    assert claim(gateway, provider, own).secrets["TOKEN"] == "the provider's"


def test_a_secret_that_is_gone_fails_the_task_and_nobody_is_paid_or_blamed(gateway: InnerGateway) -> None:
    user, provider = gateway.someone(), gateway.someone()
    put(user, "TOKEN")
    node_of(gateway, provider)
    task = user.submit(PACKAGE, secrets=["TOKEN=T"])
    removed = remove(user, "TOKEN")
    assert removed.waiting_tasks == 1
    assert "1 tasks that have not begun need it, and will fail" in removed.message
    before = gateway.gateway.database.read(lambda c: task_store.find(c, task))
    assert "its secret TOKEN was removed before it began" in claim_refused(gateway, provider, task)
    detail = user.detail(task)
    assert (detail.state, detail.reason) == ("FAILED", "its secret TOKEN was removed before it began")
    assert (detail.held_cpt, detail.paid_cpt, before.hold_amount) == (0, 0, 60)
    history = gateway.gateway.database.read(
        lambda c: c.execute(nodes.select().where(nodes.c.id == f"{provider.username}/node")).one()
    )
    assert (history.history_bad, history.bad_streak, history.refused_in_row) == (0, 0, 0)


def test_a_secret_of_another_storage_key_fails_the_task_and_says_so(
    gateway: InnerGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = gateway.someone()
    put(user, "TOKEN")
    node_of(gateway, user)
    task = user.submit(PACKAGE, secrets=["TOKEN"])
    monkeypatch.setattr(gateway.gateway.secret_box, "_key", key_from_secret("another"))
    assert [secret.unreadable for secret in listed(user).secrets] == [True]
    assert "cannot read its secret TOKEN any more" in claim_refused(gateway, user, task)
    assert user.detail(task).state == "FAILED"


def test_a_database_with_such_tasks_does_not_go_back_to_a_version_that_would_drop_their_secrets(
    empty_database_url: str,
) -> None:
    with migrated(empty_database_url) as database:
        owner = database.write(add_user)
        secret = StoredSecret("TOKEN", b"\x00\xff sealed", 5, 2.5)
        assert not database.write(lambda c: secret_store.put(c, owner, secret))
        assert database.write(lambda c: secret_store.put(c, owner, replace(secret, set_at=3.5)))
        database.write(lambda c: add_task(c, owner, "t1", secrets='{"T":"TOKEN"}'))
        database.write(lambda c: add_task(c, owner, "t2", secrets='{"T":"XTOKEN"}'))
        database.write(lambda c: add_task(c, owner, "t3"))
        (found,) = database.read(lambda c: secret_store.of_user(c, owner))
        assert found == replace(secret, set_at=3.5)
        assert database.read(lambda c: secret_store.of_names(c, owner, ["TOKEN", "X"])) == {"TOKEN": found}
        assert database.read(lambda c: secret_store.sizes(c, owner)) == {"TOKEN": 5}
        assert database.read(lambda c: secret_store.count_waiting(c, owner, "TOKEN")) == 1
        with pytest.raises(StateConflictError, match="2 tasks that have not ended are to be given secrets"):
            migrate.downgrade(database, BEFORE)
        database.write(lambda c: c.execute(tasks.update().values(state="STOPPED", finished_at=1.0)))
        assert database.read(lambda c: secret_store.count_waiting(c, owner, "TOKEN")) == 0
        migrate.downgrade(database, BEFORE)
        migrate.migrate(database)
        assert database.read(lambda c: task_store.find(c, "t3")).secrets == ""
