"""Tokens that end, and money over the wire: two gateway processes on one database, real Valkey."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from sqlalchemy import func, insert, select, update

from nodepool.domain.money.ledger import EntryKind
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import credit_changes, ledger_entries, users
from tests.support.accounts import CALL_SECONDS, Account, log_in, register
from tests.support.gateway import NEWCOMER_CPT, SECRET, GatewayProcess
from tests.support.hostile import refused
from tests.support.tasks import script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

PASSWORD, OTHER = "a good password", "another good one"
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
LOCK_AFTER = 4


class Two:
    """Two gateways that share database, Redis and storage, as behind a load balancer."""

    def __init__(self, folder: Path, valkey: TestValkey) -> None:
        settings = {"LOGIN_LOCK_AFTER": str(LOCK_AFTER), "LOGIN_LOCK_SECONDS": "600"}
        self.processes = [GatewayProcess(folder, valkey, **settings) for _ in range(2)]
        for process in self.processes:
            process.start_serving()
        self.one, self.other = (process.stubs for process in self.processes)
        self.database = Database(f"sqlite:///{folder / 'users.db'}")

    def close(self) -> None:
        self.database.close()
        for process in self.processes:
            process.close()

    def someone(self) -> Account:
        return register(self.one, f"user-{secrets.token_hex(4)}", PASSWORD)

    def set(self, account: Account, **values: Any) -> None:
        change = update(users).where(users.c.username == account.username).values(values)
        self.database.write(lambda connection: connection.execute(change))

    def user_id(self, account: Account) -> int:
        query = select(users.c.id).where(users.c.username == account.username)
        return int(self.database.read(lambda connection: connection.execute(query).scalar_one()))


@pytest.fixture(scope="module")
def two(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    valkey_server.emptied()
    made = Two(tmp_path_factory.mktemp("two"), valkey_server)
    yield made
    made.close()


def balance(account: Account) -> pb.GetBalanceResponse:
    return account.stubs.users.GetBalance(
        pb.GetBalanceRequest(), metadata=account.metadata, timeout=CALL_SECONDS
    )


def status(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def change_password(account: Account, old: str = PASSWORD, new: str = OTHER) -> pb.ChangePasswordResponse:
    request = pb.ChangePasswordRequest(token=account.token, old_password=old, new_password=new)
    return account.stubs.users.ChangePassword(request, timeout=CALL_SECONDS)


# -- tokens end ------------------------------------------------------------------------------------------
def test_a_changed_password_ends_every_older_token_at_every_gateway(two: Two) -> None:
    account = two.someone()
    elsewhere = replace(account, stubs=two.other)
    second = log_in(two.other, account.username, PASSWORD)
    assert balance(elsewhere).success  # both gateways remember the caller now
    assert balance(second).success
    answer = change_password(account)
    assert answer.success
    new = replace(account, token=answer.token)
    # At once at the gateway that changed it, and there the new one is good everywhere at once.
    assert refused(lambda: balance(account))[0] is UNAUTHENTICATED
    assert balance(new).success
    assert balance(replace(new, stubs=two.other)).success
    for old in (elsewhere, second):
        wait_until(lambda: status(lambda: balance(old)) is UNAUTHENTICATED, "the old token has ended")  # noqa: B023
        code, message = refused(lambda: old.stubs.users.RefreshToken(pb.RefreshTokenRequest(token=old.token)))  # noqa: B023
        assert code is UNAUTHENTICATED
        assert "log in again" in message
    assert not two.other.users.Login(pb.LoginRequest(username=account.username, password=PASSWORD)).success
    assert log_in(two.other, account.username, OTHER).token


def test_a_token_of_the_first_version_is_good_until_the_password_is_changed(two: Two) -> None:
    account = two.someone()
    claims = jwt.decode(account.token, SECRET, algorithms=["HS256"])
    del claims["gen"]
    first_version = replace(account, token=jwt.encode(claims, SECRET, algorithm="HS256"))
    assert balance(first_version).success
    change_password(account)
    assert refused(lambda: balance(first_version))[0] is UNAUTHENTICATED


def test_a_wrong_old_password_and_a_bad_new_one_are_refused(two: Two) -> None:
    account = two.someone()
    code, message = refused(lambda: change_password(account, old="not the password"))
    assert (code, "old password is wrong" in message) == (PERMISSION_DENIED, True)
    assert refused(lambda: change_password(account, new="short"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert balance(account).success


def test_a_name_is_locked_at_every_gateway_and_the_owner_gets_in(two: Two) -> None:
    account = two.someone()
    strangers = f"stranger-{secrets.token_hex(4)}"
    for name in (account.username, strangers):
        for number in range(LOCK_AFTER):
            stubs = (two.one, two.other)[number % 2]
            request = pb.LoginRequest(username=name, password=f"guess {number}")
            assert stubs.users.Login(request) == pb.LoginResponse(message="wrong username or password")
    answers = [
        refused(lambda: stubs.users.Login(pb.LoginRequest(username=name, password=PASSWORD)))  # noqa: B023
        for stubs in (two.one, two.other)
        for name in (account.username, strangers)
    ]
    assert {code for code, _ in answers} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("try again in" in message for _, message in answers)
    # All of this came from one address, the owner's own; what they have is a token, and that goes on.
    refresh = pb.RefreshTokenRequest(token=account.token)
    assert two.other.users.RefreshToken(refresh).token


# -- blocked ---------------------------------------------------------------------------------------------
def test_a_blocked_user_is_refused_within_a_moment_everywhere_and_let_in_again_afterwards(two: Two) -> None:
    account = two.someone()
    both = [account, replace(account, stubs=two.other)]
    assert all(balance(each).success for each in both)
    two.set(account, blocked=True)
    for each in both:
        wait_until(lambda: status(lambda: balance(each)) is PERMISSION_DENIED, "the blocked user is refused")  # noqa: B023
        assert "blocked; ask the pool's operator" in refused(lambda: balance(each))[1]  # noqa: B023
    for call in (
        lambda: two.one.users.Login(pb.LoginRequest(username=account.username, password=PASSWORD)),
        lambda: two.one.users.RefreshToken(pb.RefreshTokenRequest(token=account.token)),
        lambda: account.submit(script("print()")),
        lambda: account.stubs.nodes.GetNodeList(pb.GetNodeListRequest(), metadata=account.metadata),
    ):
        assert refused(call)[0] is PERMISSION_DENIED
    two.set(account, blocked=False)
    for each in both:
        wait_until(lambda: status(lambda: balance(each)) is grpc.StatusCode.OK, "the user is let in again")  # noqa: B023


def test_running_streams_of_a_blocked_user_end(two: Two) -> None:
    account = two.someone()
    task = account.submit(script("print()"), memory_gb=0)
    watching = account.stubs.tasks.WatchTask(
        pb.WatchTaskRequest(task_id=task), metadata=account.metadata, timeout=60
    )
    assert next(watching).HasField("state")  # it waits: there is no node
    done = threading.Event()

    def begun() -> Iterator[pb.UploadTaskStreamRequest]:
        # A minute, which is paid for easily: nothing but the block is to end it.
        cheap = pb.UploadTaskRequest(task_id=f"{task}-more", max_minutes=1)
        yield pb.UploadTaskStreamRequest(task=cheap)
        done.wait()  # a client that says nothing more

    upload = two.other.tasks.UploadTaskStream.future(begun(), metadata=account.metadata, timeout=60)
    two.set(account, blocked=True)
    try:
        assert refused(lambda: watching)[0] is PERMISSION_DENIED
        wait_until(upload.done, "the upload has ended")
        assert upload.code() is PERMISSION_DENIED
    finally:
        done.set()


def test_a_stream_of_an_ended_token_ends_and_one_of_the_new_goes_on(two: Two) -> None:
    account = two.someone()
    task = account.submit(script("print()"), memory_gb=0)
    old = account.stubs.tasks.WatchTask(
        pb.WatchTaskRequest(task_id=task), metadata=account.metadata, timeout=60
    )
    next(old)
    new = replace(account, token=change_password(account).token)
    assert refused(lambda: old)[0] is UNAUTHENTICATED
    watching = new.stubs.tasks.WatchTask(pb.WatchTaskRequest(task_id=task), metadata=new.metadata, timeout=60)
    next(watching)
    assert new.stop(task).success
    assert [event.state.state for event in watching if event.HasField("state")][-1]


# -- transfers -------------------------------------------------------------------------------------------
def transfer(sender: Account, receiver: str, amount: int, transfer_id: str = "") -> pb.TransferResponse:
    request = pb.TransferRequest(receiver_username=receiver, amount=amount, transfer_id=transfer_id)
    return sender.stubs.users.Transfer(request, metadata=sender.metadata, timeout=CALL_SECONDS)


def test_forty_calls_with_one_transfer_id_at_two_gateways_move_the_money_once(two: Two) -> None:
    sender, receiver = two.someone(), two.someone()
    senders = [sender, replace(sender, stubs=two.other)]
    transfer_id = secrets.token_hex(8)
    with ThreadPoolExecutor(40) as threads:
        answers = list(
            threads.map(
                lambda turn: transfer(senders[turn % 2], receiver.username, 30, transfer_id), range(40)
            )
        )
    assert [answer.repeated_transfer for answer in answers].count(False) == 1
    assert {answer.balance for answer in answers} == {NEWCOMER_CPT - 30}
    assert balance(receiver).balance == NEWCOMER_CPT + 30


def test_forty_transfers_of_the_same_money_at_two_gateways_move_what_there_is(two: Two) -> None:
    sender, receivers = two.someone(), [two.someone(), two.someone()]
    senders = [sender, replace(sender, stubs=two.other)]

    def pay(turn: int) -> grpc.StatusCode:
        return status(lambda: transfer(senders[turn % 2], receivers[turn // 2 % 2].username, 7))

    with ThreadPoolExecutor(40) as threads:
        codes = list(threads.map(pay, range(40)))
    assert codes.count(grpc.StatusCode.OK) == NEWCOMER_CPT // 7
    assert codes.count(grpc.StatusCode.FAILED_PRECONDITION) == 40 - NEWCOMER_CPT // 7
    assert balance(sender).balance == NEWCOMER_CPT % 7
    assert sum(balance(each).balance for each in (sender, *receivers)) == 3 * NEWCOMER_CPT


def test_the_same_transfer_id_for_another_transfer_is_refused_and_moves_nothing(two: Two) -> None:
    sender, receiver, third = two.someone(), two.someone(), two.someone()
    assert not transfer(sender, receiver.username, 10, "rent").repeated_transfer
    for other, amount in ((receiver, 11), (third, 10)):
        code, message = refused(lambda: transfer(sender, other.username, amount, "rent"))  # noqa: B023
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert "nothing was moved" in message
    repeated = transfer(sender, receiver.username, 10, "rent")
    assert (repeated.repeated_transfer, repeated.balance) == (True, NEWCOMER_CPT - 10)
    # An id is its sender's: another's transfer of that id is another transfer.
    assert not transfer(third, receiver.username, 10, "rent").repeated_transfer
    assert balance(receiver).balance == NEWCOMER_CPT + 20


def test_a_repeat_is_told_so_even_when_the_money_is_spent_or_the_receiver_blocked(two: Two) -> None:
    sender, receiver = two.someone(), two.someone()
    transfer(sender, receiver.username, NEWCOMER_CPT, "all")
    two.set(receiver, blocked=True)
    assert transfer(sender, receiver.username, NEWCOMER_CPT, "all").repeated_transfer
    code, _ = refused(lambda: transfer(sender, receiver.username, 1, "more"))
    assert code in {PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION}
    assert balance(sender).balance == 0


def test_nothing_goes_to_a_blocked_user(two: Two) -> None:
    sender, receiver = two.someone(), two.someone()
    two.set(receiver, blocked=True)
    code, message = refused(lambda: transfer(sender, receiver.username, 1))
    assert (code, "nothing was moved" in message) == (PERMISSION_DENIED, True)
    assert balance(sender).balance == NEWCOMER_CPT


def test_nothing_comes_from_a_blocked_user_who_was_remembered_as_fine(two: Two) -> None:
    sender, receiver = two.someone(), two.someone()
    assert balance(sender).success
    two.set(sender, blocked=True)
    assert refused(lambda: transfer(sender, receiver.username, 1))[0] is PERMISSION_DENIED
    assert balance(receiver).balance == NEWCOMER_CPT


@pytest.mark.parametrize("transfer_id", ["a b", "x" * 101, "ä", "a/b", "\n"])
def test_a_transfer_id_that_is_none_is_refused(two: Two, transfer_id: str) -> None:
    sender, receiver = two.someone(), two.someone()
    code, message = refused(lambda: transfer(sender, receiver.username, 1, transfer_id))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "transfer_id" in message


def test_older_clients_send_no_id_and_each_of_their_calls_is_a_transfer(two: Two) -> None:
    sender, receiver = two.someone(), two.someone()
    assert [transfer(sender, receiver.username, 5).balance for _ in range(2)] == [
        NEWCOMER_CPT - 5,
        NEWCOMER_CPT - 10,
    ]


# -- what is shown -----------------------------------------------------------------------------------------
def statement(account: Account, **fields: Any) -> pb.GetStatementResponse:
    request = pb.GetStatementRequest(token=account.token, **fields)
    return account.stubs.users.GetStatement(request, timeout=CALL_SECONDS)


def test_a_statement_adds_up_and_names_who_was_on_the_other_side(two: Two) -> None:
    ada, bob = two.someone(), two.someone()
    transfer(ada, bob.username, 30)
    transfer(bob, ada.username, 5)
    page = statement(ada)
    assert [(line.kind, line.amount, line.counterparty) for line in page.lines] == [
        ("transfer", 5, bob.username),
        ("transfer", -30, bob.username),
        ("grant", NEWCOMER_CPT, "mint"),
    ]
    assert page.balance == page.lines[0].balance_after == balance(ada).balance
    running = 0
    for line in reversed(page.lines):
        running += line.amount
        assert line.balance_after == running
    assert page.next_before_seq == 0
    assert {line.kind for line in statement(bob).lines} == {"transfer", "grant"}


def test_a_statement_comes_in_pages_without_gaps_or_repeats(two: Two) -> None:
    ada, bob = two.someone(), two.someone()
    for _ in range(6):
        transfer(ada, bob.username, 1)
    whole = [line.seq for line in statement(ada).lines]
    assert len(whole) == 7
    seqs: list[int] = []
    before = 0
    while True:
        page = statement(ada, page_size=3, before_seq=before)
        seqs += [line.seq for line in page.lines]
        assert page.balance == balance(ada).balance
        before = page.next_before_seq
        if not before:
            break
    assert seqs == whole


def test_what_a_task_holds_is_in_its_lines_and_beside_the_balance(two: Two) -> None:
    ada = two.someone()
    task = ada.submit(script("print()"), memory_gb=0, max_minutes=10)
    page = statement(ada, task_id=task)
    assert [(line.kind, line.counterparty, line.task_id) for line in page.lines] == [("hold", "escrow", task)]
    held = -page.lines[0].amount
    assert held > 0
    assert (page.balance, page.held) == (NEWCOMER_CPT - held, held)
    told = balance(ada)
    assert (told.balance, told.held, told.credit_score) == (NEWCOMER_CPT - held, held, 50)
    assert f"{held} more" in told.message
    assert ada.stop(task).success
    wait_until(lambda: balance(ada).balance == NEWCOMER_CPT, "what was held is back")
    assert [line.kind for line in statement(ada, task_id=task).lines] == ["release", "hold"]
    assert statement(ada, task_id="no-such-task").lines == []


@pytest.mark.parametrize("fields", [{"page_size": -1}, {"before_seq": -1}])
def test_pages_that_are_none_are_refused(two: Two, fields: dict[str, int]) -> None:
    ada = two.someone()
    assert refused(lambda: statement(ada, **fields))[0] is grpc.StatusCode.INVALID_ARGUMENT
    request = pb.GetCreditRequest(token=ada.token, **fields)
    assert refused(lambda: two.one.users.GetCredit(request))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert statement(ada, page_size=10_000).success


def test_a_statement_is_the_callers_own(two: Two) -> None:
    ada, bob = two.someone(), two.someone()
    task = ada.submit(script("print()"), memory_gb=0, max_minutes=1)
    assert statement(bob, task_id=task).lines == []


def credit(account: Account, **fields: Any) -> pb.GetCreditResponse:
    request = pb.GetCreditRequest(token=account.token, **fields)
    return account.stubs.users.GetCredit(request, timeout=CALL_SECONDS)


def test_credit_is_told_with_every_change_what_it_opens_and_where_it_drifts_to(two: Two) -> None:
    ada = two.someone()
    told = credit(ada)
    assert (told.score, told.tier, told.start_score, list(told.changes)) == (50, "normal", 50, [])
    user_id = two.user_id(ada)
    rows = [
        {"id": f"{user_id}:{n}", "user_id": user_id, "kind": "lost", "delta": -2, "score_after": 48 - 2 * n,
         "reason": f"run {n}", "task_id": f"task-{n}", "node_id": "node", "created_at": 10.0 + n}
        for n in range(3)
    ]  # fmt: skip
    two.database.write(lambda connection: connection.execute(insert(credit_changes), rows))
    two.set(ada, credit_score=44)
    told = credit(ada)
    assert (told.score, told.tier) == (44, "low")
    assert [(change.delta, change.score_after, change.reason) for change in told.changes] == [
        (-2, 44, "run 2"),
        (-2, 46, "run 1"),
        (-2, 48, "run 0"),
    ]
    assert (told.changes[0].task_id, told.changes[0].node_id, told.changes[0].at) == ("task-2", "node", 12.0)
    first = credit(ada, page_size=2)
    assert [change.reason for change in first.changes] == ["run 2", "run 1"]
    rest = credit(ada, page_size=2, before_seq=first.next_before_seq)
    assert ([change.reason for change in rest.changes], rest.next_before_seq) == (["run 0"], 0)


def test_what_the_score_allows_is_told_within_what_the_pool_allows_anybody(two: Two) -> None:
    ada = two.someone()
    allowed = {limit.name: limit.most for limit in credit(ada).limits}
    assert allowed["max_minutes"] == 1440  # MAX_MINUTES_LIMIT
    assert allowed["network"] == 0  # ALLOW_TASK_NETWORK is off
    two.set(ada, credit_score=0)
    low = {limit.name: limit.most for limit in credit(ada).limits}
    assert low.keys() == allowed.keys()
    assert low["max_minutes"] < allowed["max_minutes"]


def test_transfers_that_cannot_be_leave_no_entry_and_use_up_no_id(two: Two) -> None:
    query = select(func.count()).where(ledger_entries.c.kind == EntryKind.TRANSFER)

    def count() -> int:
        return int(two.database.read(lambda connection: connection.execute(query).scalar_one()))

    ada, bob = two.someone(), two.someone()
    before = count()
    cannot_be = [(ada.username, 1), ("nobody-here", 1)]
    cannot_be += [(bob.username, amount) for amount in (0, -1, 2**62, 2**63 - 1, NEWCOMER_CPT + 1)]
    for receiver, amount in cannot_be:
        assert status(lambda: transfer(ada, receiver, amount, "one")) is not grpc.StatusCode.OK  # noqa: B023
    assert count() == before
    assert not transfer(ada, bob.username, 1, "one").repeated_transfer
