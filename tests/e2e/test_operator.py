"""What the operator does through AdminService, on a whole pool: each act takes effect, and is kept."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import admin_acts
from tests.support.accounts import CALL_SECONDS, Account, log_in
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script

SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)"
ADMIN = ("the-operator", "a long enough password")
NAME = ADMIN[0]
FOREIGN = {
    "Mint": pb.MintRequest(username="x", amount=1, mint_id="m"),
    "SetCreditScore": pb.SetCreditScoreRequest(username="x", score=1, reason="r"),
    "SetUserBlocked": pb.SetUserBlockedRequest(username="x", blocked=True, reason="r"),
    "ListUsers": pb.ListUsersRequest(),
    "ReversePayment": pb.ReversePaymentRequest(entry_id="e", reason="r"),
    "ListAdminActs": pb.ListAdminActsRequest(),
}


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1, settings={"ADMIN_USERNAME": ADMIN[0], "ADMIN_PASSWORD": ADMIN[1]})


@pytest.fixture(scope="module")
def admin(pool: TestPool) -> Account:
    return log_in(pool.stubs(), *ADMIN)


def call(account: Account, method: str, request: Any) -> Any:
    stub: Callable[..., Any] = getattr(account.stubs.admin, method)
    return stub(request, metadata=account.metadata, timeout=CALL_SECONDS)


def refused(account: Account, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(account, method, request)
    return error.value.code(), str(error.value.details())


def balance(account: Account) -> int:
    request = pb.GetBalanceRequest(username=account.username, token=account.token)
    return account.stubs.users.GetBalance(request, timeout=CALL_SECONDS).balance


def record(admin: Account, username: str) -> pb.UserRecord:
    answer = call(admin, "ListUsers", pb.ListUsersRequest(name_contains=username))
    (found,) = (user for user in answer.users if user.username == username)
    return found


def newest_act(admin: Account) -> pb.AdminAct:
    return call(admin, "ListAdminActs", pb.ListAdminActsRequest(page_size=1)).acts[0]


@pytest.mark.parametrize("method", FOREIGN)
def test_nobody_else_may_do_it(pool: TestPool, method: str) -> None:
    code, _ = refused(pool.register_user(), method, FOREIGN[method])
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_minted_cpt_arrives_once_however_often_it_is_sent(pool: TestPool, admin: Account) -> None:
    user = pool.register_user()
    before = balance(user)
    request = pb.MintRequest(
        username=user.username, amount=77, mint_id=f"gift-{user.username}", memo="welcome"
    )
    for _ in range(3):
        assert call(admin, "Mint", request).success
    assert balance(user) == before + 77
    act = newest_act(admin)
    assert (act.admin, act.action, act.subject) == (ADMIN[0], "mint", user.username)
    assert json.loads(act.detail) == {"amount": 77, "memo": "welcome", "mint_id": request.mint_id}
    code, _ = refused(
        admin, "Mint", pb.MintRequest(username=user.username, amount=78, mint_id=request.mint_id)
    )
    assert code in {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    }
    assert balance(user) == before + 77


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Mint", pb.MintRequest(username="nobody-here", amount=1, mint_id="m"), "NOT_FOUND"),
        ("Mint", pb.MintRequest(username=NAME, amount=0, mint_id="m"), "INVALID_ARGUMENT"),
        ("Mint", pb.MintRequest(username=NAME, amount=-5, mint_id="m"), "INVALID_ARGUMENT"),
        ("Mint", pb.MintRequest(username=NAME, amount=2**62 + 1, mint_id="m"), "INVALID_ARGUMENT"),
        ("Mint", pb.MintRequest(username=NAME, amount=1), "INVALID_ARGUMENT"),
        (
            "SetCreditScore",
            pb.SetCreditScoreRequest(username=NAME, score=9999, reason="r"),
            "INVALID_ARGUMENT",
        ),
        ("SetCreditScore", pb.SetCreditScoreRequest(username=NAME, score=10), "INVALID_ARGUMENT"),
        (
            "SetUserBlocked",
            pb.SetUserBlockedRequest(username=NAME, blocked=True, reason="r"),
            "INVALID_ARGUMENT",
        ),
        ("ReversePayment", pb.ReversePaymentRequest(entry_id="pay:none:1", reason="r"), "NOT_FOUND"),
        ("ListUsers", pb.ListUsersRequest(page_size=-1), "INVALID_ARGUMENT"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_kept_of_it(
    admin: Account, method: str, request_: Any, code: str
) -> None:
    before = call(admin, "ListAdminActs", pb.ListAdminActsRequest(page_size=1)).acts
    assert refused(admin, method, request_)[0].name == code
    assert call(admin, "ListAdminActs", pb.ListAdminActsRequest(page_size=1)).acts == before


def test_a_score_takes_effect_on_the_tiers_of_nodes_at_once(pool: TestPool, admin: Account) -> None:
    score = record(admin, pool.owner.username).credit_score
    for wanted in (10, score):
        request = pb.SetCreditScoreRequest(username=pool.owner.username, score=wanted, reason="a dispute")
        call(admin, "SetCreditScore", request)
        assert record(admin, pool.owner.username).credit_score == wanted
    assert newest_act(admin).action == "set-score"


def test_blocking_ends_tokens_and_tasks_and_unblocking_lets_in_again(pool: TestPool, admin: Account) -> None:
    user = pool.register_user()
    task = user.submit(script(SLEEPS))
    user.wait_for(task, "RUNNING")
    held = record(admin, user.username).held
    request = pb.SetUserBlockedRequest(username=user.username, blocked=True, reason="abuse")
    call(admin, "SetUserBlocked", request)
    with pytest.raises(grpc.RpcError):
        user.poll(task)
    login = pb.LoginRequest(username=user.username, password=user.password)
    with pytest.raises(grpc.RpcError) as error:
        user.stubs.users.Login(login, timeout=CALL_SECONDS)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    pool.wait(lambda: record(admin, user.username).unfinished_tasks == 0, "the task has ended")
    after = record(admin, user.username)
    assert (after.blocked, after.held, held > 0) == (True, 0, True)
    assert refused(admin, "SetUserBlocked", request)[0] is not grpc.StatusCode.OK

    call(admin, "SetUserBlocked", pb.SetUserBlockedRequest(username=user.username))
    again = log_in(pool.stubs(), user.username, user.password)
    assert again.poll(task).status == "STOPPED"


def test_a_disputed_payment_goes_back_and_stays_in_the_book(pool: TestPool, admin: Account) -> None:
    user = pool.register_user()
    before = balance(user), balance(pool.owner)
    task = user.submit(script("print(1)"))
    user.wait_for(task, "COMPLETED")
    statement = pb.GetStatementRequest(token=pool.owner.token, task_id=task)
    paid = pool.owner.stubs.users.GetStatement(statement, timeout=CALL_SECONDS).lines
    assert [line.kind for line in paid] == ["payment"]
    assert balance(user) == before[0] - paid[0].amount
    request = pb.ReversePaymentRequest(entry_id=paid[0].entry_id, reason="the result was rubbish")
    assert f"{paid[0].amount} CPT" in call(admin, "ReversePayment", request).message
    assert "before" in call(admin, "ReversePayment", request).message
    assert (balance(user), balance(pool.owner)) == before
    lines = pool.owner.stubs.users.GetStatement(statement, timeout=CALL_SECONDS).lines
    assert [line.kind for line in lines] == ["reversal", "payment"]


def test_users_are_listed_in_pages(pool: TestPool, admin: Account) -> None:
    names = sorted(pool.register_user(f"page-{letter}-user").username for letter in "abc")
    first = call(admin, "ListUsers", pb.ListUsersRequest(page_size=2, name_contains="page-"))
    rest = call(
        admin,
        "ListUsers",
        pb.ListUsersRequest(page_size=2, name_contains="page-", after_username=first.next_after_username),
    )
    assert [user.username for user in (*first.users, *rest.users)] == names
    assert rest.next_after_username == ""


def test_the_record_of_acts_cannot_be_changed(pool: TestPool, admin: Account) -> None:
    request = pb.MintRequest(username=pool.register_user().username, amount=1, mint_id=secrets.token_hex(8))
    call(admin, "Mint", request)
    database = Database(pool.database_url)
    try:
        with pytest.raises(Exception, match="admin_acts"):
            database.write(lambda c: c.execute(update(admin_acts).values(admin="somebody else")))
    finally:
        database.close()
