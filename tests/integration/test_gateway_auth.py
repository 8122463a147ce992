"""Who gets into the gateway and with what status others are refused: a gateway process, real Valkey."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jwt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway import context
from gateway.auth.tokens import CallerIdentity
from gateway.usecases import accounts
from nodepool.domain.errors import NotEnoughCptError
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from tests.support.accounts import CALL_SECONDS, Account, Stubs, register
from tests.support.gateway import NEWCOMER_CPT, SECRET, GatewayProcess
from tests.support.hostile import refused
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

PASSWORD = "a good password"
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    valkey_server.emptied()
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), valkey_server)
    yield process.start_serving()
    process.close()


@pytest.fixture
def stubs(gateway: GatewayProcess) -> Stubs:
    return gateway.stubs


@pytest.fixture
def account(stubs: Stubs) -> Account:
    return _someone(stubs)


MakeGateway = Callable[..., GatewayProcess]


@pytest.fixture
def valkey(other_valkey_server: TestValkey) -> TestValkey:
    """Not that of the module's gateway."""
    return other_valkey_server.emptied()


@pytest.fixture
def make_gateway(valkey: TestValkey, tmp_path: Path) -> Iterator[MakeGateway]:
    made: list[GatewayProcess] = []

    def make(**settings: str) -> GatewayProcess:
        made.append(GatewayProcess(tmp_path, valkey, **settings))
        return made[-1]

    yield make
    for process in made:
        process.close()


def _someone(stubs: Stubs) -> Account:
    return register(stubs, f"user-{secrets.token_hex(4)}", PASSWORD)


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _balance(stubs: Stubs, metadata: Metadata = (), **fields: str) -> int:
    request = pb.GetBalanceRequest(**fields)
    return stubs.users.GetBalance(request, metadata=metadata, timeout=CALL_SECONDS).balance


def _transfer(sender: Account, receiver: str, amount: int) -> pb.TransferResponse:
    request = pb.TransferRequest(receiver_username=receiver, amount=amount)
    return sender.stubs.users.Transfer(request, metadata=sender.metadata, timeout=CALL_SECONDS)


def _signed(account: Account, secret: str = SECRET, **changed: object) -> str:
    """The account's own claims, changed and signed again."""
    claims = jwt.decode(account.token, options={"verify_signature": False})
    return jwt.encode({**claims, **changed}, secret, algorithm="HS256")


def _not_signed(account: Account) -> str:
    claims = jwt.decode(account.token, options={"verify_signature": False})
    return jwt.encode(claims, None, algorithm="none")


# -- logging in --------------------------------------------------------------------------------------
def test_a_login_gives_a_token_with_its_expiry(stubs: Stubs, account: Account) -> None:
    answer = stubs.users.Login(pb.LoginRequest(username=account.username, password=PASSWORD))
    claims = jwt.decode(answer.token, SECRET, algorithms=["HS256"])
    assert answer.success
    assert answer.expires_at == claims["exp"]
    assert claims["sub"] == account.username


@pytest.mark.parametrize("password", ["not the password", "", "x" * 73, PASSWORD + "\0"])
def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(
    stubs: Stubs, account: Account, password: str
) -> None:
    wrong = stubs.users.Login(pb.LoginRequest(username=account.username, password=password))
    for name in ("nobody-here", "", "\0", "x" * 5000):
        assert stubs.users.Login(pb.LoginRequest(username=name, password=password)) == wrong
    assert wrong == pb.LoginResponse(success=False, message="wrong username or password")


@pytest.mark.parametrize(
    ("username", "password", "code"),
    [
        ("ab", PASSWORD, grpc.StatusCode.INVALID_ARGUMENT),
        ("a name", PASSWORD, grpc.StatusCode.INVALID_ARGUMENT),
        ("carol", "short", grpc.StatusCode.INVALID_ARGUMENT),
        ("carol", "x" * 73, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_registration_that_breaks_a_rule_isrefused(
    stubs: Stubs, username: str, password: str, code: grpc.StatusCode
) -> None:
    request = pb.RegisterRequest(username=username, password=password)
    assert refused(lambda: stubs.users.Register(request))[0] is code


def test_a_taken_name_is_refused_and_its_password_stays(stubs: Stubs, account: Account) -> None:
    request = pb.RegisterRequest(username=account.username, password="another password")
    code, _ = refused(lambda: stubs.users.Register(request))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert not stubs.users.Login(
        pb.LoginRequest(username=account.username, password="another password")
    ).success


def test_of_many_who_register_one_name_at_once_one_has_it(stubs: Stubs) -> None:
    request = pb.RegisterRequest(username=f"user-{secrets.token_hex(4)}", password=PASSWORD)
    calls = [stubs.users.Register.future(request, timeout=CALL_SECONDS) for _ in range(8)]
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == 1
    assert codes.count(grpc.StatusCode.ALREADY_EXISTS) == 7


def test_a_refreshed_token_is_good_and_names_the_same_user(stubs: Stubs, account: Account) -> None:
    for request, metadata in (
        (pb.RefreshTokenRequest(token=account.token), ()),
        (pb.RefreshTokenRequest(), account.metadata),
    ):
        answer = stubs.users.RefreshToken(request, metadata=metadata)
        assert _balance(stubs, _bearer(answer.token), username=account.username) == NEWCOMER_CPT


def test_a_token_of_a_user_who_is_not_there_is_not_refreshed(stubs: Stubs, account: Account) -> None:
    token = _signed(account, sub="never-registered", uid=10**6)
    code, _ = refused(lambda: stubs.users.RefreshToken(pb.RefreshTokenRequest(token=token)))
    assert code is grpc.StatusCode.UNAUTHENTICATED


# -- tokens ------------------------------------------------------------------------------------------
def test_the_token_may_be_in_the_metadata_the_message_or_both(stubs: Stubs, account: Account) -> None:
    assert _balance(stubs, account.metadata) == NEWCOMER_CPT
    assert _balance(stubs, token=account.token) == NEWCOMER_CPT
    assert _balance(stubs, account.metadata, token=account.token) == NEWCOMER_CPT


def test_two_different_tokens_arerefused(stubs: Stubs, account: Account) -> None:
    other = _someone(stubs)
    code, message = refused(lambda: _balance(stubs, account.metadata, token=other.token))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "different tokens" in message


def test_a_call_without_a_token_is_refused_with_what_to_do(stubs: Stubs) -> None:
    code, message = refused(lambda: _balance(stubs))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "log in" in message


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda account: _signed(account, exp=int(time.time()) - 1), id="expired"),
        pytest.param(
            lambda account: _signed(account, "another secret of forty characters, 1234"), id="foreign"
        ),
        pytest.param(_not_signed, id="alg none"),
        pytest.param(lambda account: account.token[:-4] + "AAAA", id="forged"),
        pytest.param(lambda account: "no token at all", id="malformed"),
        pytest.param(lambda account: "x" * 5000, id="long"),
    ],
)
def test_a_bad_token_is_refused_wherever_it_is(
    stubs: Stubs, account: Account, make: Callable[[Account], str]
) -> None:
    token = make(account)
    tasks = pb.PollTaskStatusRequest(task_id="t")
    for call in (
        lambda: _balance(stubs, _bearer(token)),
        lambda: _balance(stubs, token=token),
        # A bad token is not the same as none.
        lambda: stubs.tasks.PollTaskStatus(tasks, metadata=_bearer(token)),
        lambda: list(stubs.tasks.WatchTask(pb.WatchTaskRequest(task_id="t"), metadata=_bearer(token))),
        lambda: stubs.tasks.UploadTaskStream(iter([]), metadata=_bearer(token)),
    ):
        code, message = refused(call)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "log in again" in message


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic YTpi"])
def test_metadata_that_is_no_bearer_token_isrefused(stubs: Stubs, value: str) -> None:
    code, _ = refused(lambda: _balance(stubs, (("authorization", value),)))
    assert code is grpc.StatusCode.UNAUTHENTICATED


def test_a_bad_token_keeps_nobody_from_logging_in(stubs: Stubs, account: Account) -> None:
    request = pb.LoginRequest(username=account.username, password=PASSWORD)
    assert stubs.users.Login(request, metadata=_bearer("old")).success


def test_anonymous_reads_are_off_and_the_refusal_names_the_setting(stubs: Stubs) -> None:
    for call in (
        lambda: stubs.nodes.GetNodeList(pb.GetNodeListRequest()),
        lambda: stubs.tasks.PollTaskStatus(pb.PollTaskStatusRequest(task_id="t")),
    ):
        code, message = refused(call)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "ALLOW_ANONYMOUS_READS" in message


def test_health_and_reflection_need_no_token(gateway: GatewayProcess) -> None:
    # Its first look at the broker may come to nothing on a busy machine.
    wait_until(
        lambda: gateway.stubs.nodes.HealthCheck(pb.HealthCheckRequest()).healthy, "the pool is healthy"
    )
    health = health_pb2_grpc.HealthStub(gateway.channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    answers = reflection_pb2_grpc.ServerReflectionStub(gateway.channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = {service.name for service in next(answers).list_services_response.service}
    assert {"nodepool.UserService", "nodepool.MasterNodeService", "grpc.health.v1.Health"} <= names


# -- CPT ---------------------------------------------------------------------------------------------
def test_a_transfer_moves_cpt(stubs: Stubs, account: Account) -> None:
    other = _someone(stubs)
    assert _transfer(account, other.username, 30).success
    assert _balance(stubs, account.metadata) == NEWCOMER_CPT - 30
    assert _balance(stubs, other.metadata) == NEWCOMER_CPT + 30


@pytest.mark.parametrize("amount", [0, -1, -(2**63), 2**62, 2**63 - 1])
def test_an_amount_that_is_none_isrefused(stubs: Stubs, account: Account, amount: int) -> None:
    other = _someone(stubs)
    code, _ = refused(lambda: _transfer(account, other.username, amount))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_transfers_that_cannot_be_are_refused_and_move_nothing(stubs: Stubs, account: Account) -> None:
    other = _someone(stubs)
    for receiver, amount, expected in (
        (account.username, 1, grpc.StatusCode.INVALID_ARGUMENT),
        ("nobody-here", 1, grpc.StatusCode.NOT_FOUND),
        ("\0", 1, grpc.StatusCode.INVALID_ARGUMENT),
        (other.username, NEWCOMER_CPT + 1, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        assert refused(lambda: _transfer(account, receiver, amount))[0] is expected  # noqa: B023
    assert _balance(stubs, account.metadata) == _balance(stubs, other.metadata) == NEWCOMER_CPT


def test_the_balance_of_another_is_not_shown(stubs: Stubs, account: Account) -> None:
    other = _someone(stubs)
    code, _ = refused(lambda: _balance(stubs, account.metadata, username=other.username))
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_forty_transfers_at_once_never_overdraw(stubs: Stubs, account: Account) -> None:
    other = _someone(stubs)
    request = pb.TransferRequest(token=account.token, receiver_username=other.username, amount=10)
    calls = [stubs.users.Transfer.future(request, timeout=CALL_SECONDS) for _ in range(40)]
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == NEWCOMER_CPT // 10
    assert codes.count(grpc.StatusCode.FAILED_PRECONDITION) == 40 - NEWCOMER_CPT // 10
    assert _balance(stubs, account.metadata) == 0
    assert _balance(stubs, other.metadata) == 2 * NEWCOMER_CPT


def test_two_who_pay_each_other_at_once_lose_nothing(
    database_url: str, tmp_path: Path, valkey: TestValkey
) -> None:
    settings = {"database_url": database_url, "redis_url": valkey.url, "task_storage_path": tmp_path / "s"}
    pool = context.build(
        Settings.model_validate({**settings, "newcomer_balance_cpt": 20, "bcrypt_rounds": 4})
    )
    try:
        people = []
        for name in ("alice", "bobby"):
            accounts.register(pool, name, PASSWORD)
            issued = accounts.login(pool, name, PASSWORD)
            assert issued is not None
            people.append(pool.tokens.read(issued.token))
        together = threading.Barrier(8)

        def pay(turn: int) -> None:
            together.wait()
            for _ in range(10):
                sender, receiver = people[turn % 2], people[1 - turn % 2]
                try:
                    accounts.transfer(pool, sender, receiver.username, 7)
                except NotEnoughCptError:
                    continue

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(pay, range(8)))
        left = [_left(pool, person) for person in people]
        assert sum(left) == 40
        assert min(left) >= 0
    finally:
        pool.close()


def _left(pool: context.Gateway, person: CallerIdentity) -> int:
    return accounts.balance(pool, person, person.username).spendable_cpt


# -- other settings ----------------------------------------------------------------------------------
def test_anonymous_reads_where_they_are_allowed(make_gateway: MakeGateway) -> None:
    stubs = make_gateway(ALLOW_ANONYMOUS_READS="true").start_serving().stubs
    nodes = stubs.nodes.GetNodeList(pb.GetNodeListRequest())
    assert (nodes.success, list(nodes.images)) == (True, []), "which images there are only accounts are told"
    missing = refused(lambda: stubs.tasks.PollTaskStatus(pb.PollTaskStatusRequest(task_id="t")))
    assert missing[0] is grpc.StatusCode.NOT_FOUND
    bad = refused(lambda: stubs.nodes.GetNodeList(pb.GetNodeListRequest(), metadata=_bearer("bad")))
    assert bad[0] is grpc.StatusCode.UNAUTHENTICATED


def test_logins_over_the_limit_are_refused_and_without_redis_let_through(
    make_gateway: MakeGateway, valkey: TestValkey
) -> None:
    process = make_gateway(LOGIN_ATTEMPTS_PER_MINUTE="3", REDIS_TIMEOUT_SECONDS="0.5").start_serving()
    request = pb.LoginRequest(username="guessed", password="a guess too many")

    def log_in() -> pb.LoginResponse:
        return process.stubs.users.Login(request, timeout=CALL_SECONDS)

    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED

    def over_the_limit() -> list[str]:
        """The counters, once an attempt is refused."""
        try:
            log_in()
        except grpc.RpcError as error:
            return [*valkey.admin.scan_iter("rate:login:*")] if error.code() is exhausted else []
        return []

    for _ in range(3):
        assert not log_in().success
    # The next one, but where the machine is so slow that the minute ends between them.
    counters = wait_until(over_the_limit, "attempts over the limit are refused", period=0)
    # -2: it has ended meanwhile. One that would never end has -1.
    assert all(valkey.admin.ttl(key) in {-2, *range(61)} for key in counters)
    valkey.kill()
    try:
        assert not log_in().success
    finally:
        valkey.start()
    assert "attempts are not counted" in process.log()


def test_the_process_ends_cleanly_and_tells_no_secret(make_gateway: MakeGateway) -> None:
    process = make_gateway(LOG_LEVEL="DEBUG", LOG_JSON="true").start_serving()
    account = _someone(process.stubs)
    refused(lambda: _balance(process.stubs, token=account.token[:-3] + "AAA"))
    process.stop()
    assert process.process.returncode == 0, process.log_tail()
    for secret in (SECRET, PASSWORD, account.token):
        assert secret not in process.log()


def test_a_taken_port_and_plain_text_for_everybody_are_explained(
    gateway: GatewayProcess, make_gateway: MakeGateway
) -> None:
    for settings, code, words in (
        ({"GRPC_SERVER_PORT": str(gateway.port)}, 1, "cannot listen on 127.0.0.1"),
        ({"GRPC_SERVER_HOST": "0.0.0.0"}, 2, "ALLOW_INSECURE_PLAINTEXT"),
        ({"JWT_SECRET_KEY": "change-me"}, 2, "JWT_SECRET_KEY"),
    ):
        process = make_gateway(**settings)
        process.start()
        wait_until(lambda: not process.is_running, "the gateway ends", 60)  # noqa: B023
        assert process.process.returncode == code, process.log_tail()
        assert words in process.log_tail()
        assert "Traceback" not in process.log_tail()
