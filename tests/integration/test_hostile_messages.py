"""Of every call of the protocol: what is no message, what no field may be, and what tells of others' ids."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.descriptor import FieldDescriptor

from gateway.admission.message_limits import ANY_TEXT
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from tests.support import requests
from tests.support.accounts import CALL_SECONDS, Account, log_in, register
from tests.support.gateway import SECRET, GatewayProcess
from tests.support.requests import METHODS, call, request_of, variants
from tests.support.stores import place
from tests.support.tasks import new_task_id, script
from tests.support.valkey import TestValkey

ADMIN, PASSWORD = "the-operator", "a good password"
INSIDES = ("Traceback", "Error", "<class", "google", "sqlalchemy", "psycopg", "SELECT", "File ", "0x")
CORRUPT = b"\xff\xff\xff\xff\xff"
# These say whether an id is taken, because who chose it has to know, or are the operator's own.
TELL_OF_IDS = {
    "/nodepool.MasterNodeService/UploadTask",
    "/nodepool.MasterNodeService/UploadTaskStream",
    "/nodepool.NodeManagerService/RegisterWorkerNode",
    "/nodepool.UserService/Register",
    "/nodepool.UserService/Transfer",
}
ODD: dict[int, list[Any]] = {
    FieldDescriptor.TYPE_STRING: ["a\0b", "x" * 20_000, "\u202e\x1b[2J%s'\"\\;--"],
    FieldDescriptor.TYPE_BYTES: [b"\0" * 10],
    FieldDescriptor.TYPE_INT32: [2**31 - 1, -(2**31)],
    FieldDescriptor.TYPE_INT64: [2**63 - 1, -(2**63)],
    FieldDescriptor.TYPE_DOUBLE: [float("nan"), float("-inf"), 1e308],
    FieldDescriptor.TYPE_ENUM: [2**31 - 1, -(2**31)],
    FieldDescriptor.TYPE_BOOL: [True],
}


def _gateway(folder: Path, valkey: TestValkey, **settings: str) -> GatewayProcess:
    process = GatewayProcess(
        folder,
        valkey,
        ADMIN_USERNAME=ADMIN,
        ADMIN_PASSWORD=PASSWORD,
        NEWCOMER_BALANCE_CPT="1000000000",
        **settings,
    )
    return process.start_serving()


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    valkey_server.emptied()
    process = _gateway(tmp_path_factory.mktemp("gateway"), valkey_server)
    yield process
    process.close()


@pytest.fixture
def valkey(other_valkey_server: TestValkey) -> TestValkey:
    """Not that of the module's gateway."""
    return other_valkey_server.emptied()


@pytest.fixture(scope="module")
def operator(gateway: GatewayProcess) -> Account:
    return log_in(gateway.stubs, ADMIN, PASSWORD)


def _plain(code: grpc.StatusCode, message: str) -> bool:
    """A refusal that names what is wrong and nothing of the inside."""
    return code is grpc.StatusCode.INVALID_ARGUMENT and not any(word in message for word in INSIDES)


# -- what is no message ------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_message_is_bad_input(gateway: GatewayProcess, operator: Account, method: str) -> None:
    for raw in (CORRUPT, b"\x0a\x04\xff\xfe\xfd\xfc", b"\x0a\x7f"):
        code, message = call(gateway.channel, method, raw, metadata=operator.metadata)
        # A call without fields knows none, and takes whatever is well formed.
        assert _plain(code, message) or (code is grpc.StatusCode.OK and raw is not CORRUPT), (code, message)
    if METHODS[method].client_streaming:
        first = request_of(method, {"task_id": new_task_id()}).SerializeToString()
        code, message = call(gateway.channel, method, first, CORRUPT, metadata=operator.metadata)
        assert code is not grpc.StatusCode.UNKNOWN
        assert not any(word in message for word in INSIDES)


def test_a_method_that_is_not_there_is_unimplemented(gateway: GatewayProcess) -> None:
    ask = gateway.channel.unary_unary("/nodepool.UserService/BecomeAdmin")
    with pytest.raises(grpc.RpcError) as caught:
        ask(b"", timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- what no token may say ---------------------------------------------------------------------------
BAD_NUMBERS = (0, -1, 2**63, 2**64, -(2**63), 10**400, 1.5, 1e400, True, None, "1", "", [1], {"a": 1}, [[[]]])
BAD_WORDS = (None, 1, 1.5, True, [], {}, ["admin"], {"role": "admin"}, "\0", "\ud800", "x" * 100_000)


def _odd_tokens(good: dict[str, Any]) -> Iterator[str]:
    for claim in ("uid", "gen", "exp"):
        for value in BAD_NUMBERS:
            if claim == "gen" and value == 0 and value is not False:
                continue  # it is that
            yield jwt.encode({**good, claim: value}, SECRET, algorithm="HS256")
    for value in BAD_WORDS:
        yield jwt.encode({**good, "sub": value}, SECRET, algorithm="HS256")
        if not isinstance(value, str):  # the role that counts is the one in SQL
            yield jwt.encode({**good, "role": value}, SECRET, algorithm="HS256")
    for claim in ("uid", "sub", "role", "iat", "exp"):
        yield jwt.encode({name: it for name, it in good.items() if name != claim}, SECRET, algorithm="HS256")
    for head in (
        {"alg": "none"}, {"alg": "None"}, {}, {"alg": None}, {"alg": ["HS256"]}, {"alg": {"alg": "HS256"}},
        {"alg": "RS256"}, {"alg": "HS256", "crit": ["b64"], "b64": False}, {"alg": "HS256", "kid": 1}, [], 1,
    ):  # fmt: skip
        yield _signed(json.dumps(head).encode(), json.dumps(good).encode())
    for claims in (b"", b"null", b"[]", b"1", b'"text"', b"\xff\xfe", b"[" * 1000, b'{"uid":' * 500):
        yield _signed(b'{"alg": "HS256", "typ": "JWT"}', claims)


def _signed(head: bytes, claims: bytes) -> str:
    said = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, claims))
    signature = hmac.new(SECRET.encode(), said, hashlib.sha256).digest()
    return (said + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_no_claim_of_a_signed_token_makes_the_inside_fail(gateway: GatewayProcess) -> None:
    account = register(gateway.stubs, f"user-{secrets.token_hex(4)}", PASSWORD)
    good = jwt.decode(account.token, SECRET, algorithms=["HS256"])
    ask = "/nodepool.UserService/GetBalance"
    assert call(gateway.channel, ask, b"", metadata=account.metadata)[0] is grpc.StatusCode.OK
    tokens = list(_odd_tokens(good))
    answers = [
        (token, *call(gateway.channel, ask, pb.GetBalanceRequest(token=token).SerializeToString()))
        for token in tokens
    ]
    answers += [
        (token, *call(gateway.channel, ask, b"", metadata=(("authorization", f"Bearer {token}"),)))
        for token in tokens
        if len(token) < 4096  # what is longer is no metadata of this gateway
    ]
    failed = [
        (token, code, words)
        for token, code, words in answers
        if code is not grpc.StatusCode.UNAUTHENTICATED
        and not (code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in words and len(token) > 16_000)
    ]
    assert not failed, failed


# -- what no field may be ----------------------------------------------------------------------------
def test_no_field_of_any_call_makes_the_inside_fail(
    database_url: str, valkey: TestValkey, tmp_path: Path
) -> None:
    process = _gateway(tmp_path, valkey, DATABASE_URL=database_url)
    try:
        operator = log_in(process.stubs, ADMIN, PASSWORD)
        user, other = (register(process.stubs, f"user-{secrets.token_hex(4)}", PASSWORD) for _ in range(2))
        failed = [
            (name, value, code, message)
            for method in METHODS
            for name, value, code, message in _odd_answers(
                process, operator if "AdminService" in method else user, other, method
            )
            if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
            or (_has_nul(name, value) and not _plain(code, message))
        ]
    finally:
        process.close()
    assert not failed, failed


def _odd_answers(
    process: GatewayProcess, caller: Account, other: Account, method: str
) -> Iterator[tuple[str, Any, grpc.StatusCode, str]]:
    task, node = "no-task", f"{caller.username}/node"
    if "AdminService" not in method:
        task = caller.submit(script("print(1)"))
        register_node(caller, node)
    good = {
        "task_id": task, "node_id": node, "attempt_id": f"{task}:1", "username": other.username,
        "receiver_username": other.username, "amount": 1, "task_zip": script("print(1)"), "kind": "agent",
        "cpu_cores": 4, "memory_gb": 4, "cpu_score": 100, "hostname": "host", "location": "Asia",
        "mint_id": secrets.token_hex(8), "reason": "a reason", "outcome": pb.ATTEMPT_OUTCOME_SUCCEEDED,
    }  # fmt: skip
    if method.endswith(("UploadTask", "ExecuteTask", "UploadTaskStream")):
        good["task_id"] = new_task_id()
    if "GetBalance" in method:
        del good["username"]
    for name, value, message in variants(request_of(method, good), ODD):
        code, told = call(
            process.channel, method, message.SerializeToString(), metadata=_metadata(caller, name)
        )
        yield name, value, code, told


def _metadata(caller: Account, field: str) -> requests.Metadata:
    # A token in the message stands alone, or it differs from the other.
    return () if field.endswith(".token") else caller.metadata


def _has_nul(field: str, value: Any) -> bool:
    # A token with one is no token, which is said first.
    return isinstance(value, str) and "\0" in value and field not in ANY_TEXT and not field.endswith(".token")


def register_node(account: Account, node_id: str) -> None:
    request = pb.RegisterWorkerNodeRequest(
        node_id=node_id,
        hostname="host",
        cpu_cores=4,
        memory_gb=4,
        cpu_score=1000,
        location="Asia",
        kind="agent",
    )
    account.stubs.nodes.RegisterWorkerNode(request, metadata=account.metadata, timeout=CALL_SECONDS)


# -- whose is it -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def others(gateway: GatewayProcess, operator: Account) -> dict[str, dict[str, str]]:
    """Ids of things that another user has: a task that waits, and one that a node of theirs was given."""
    owner = register(gateway.stubs, f"user-{secrets.token_hex(4)}", PASSWORD)
    node = f"{owner.username}/node"
    register_node(owner, node)
    waiting, placed = owner.submit(script("print(1)")), owner.submit(script("print(2)"))
    database = Database(f"sqlite:///{gateway.home / 'users.db'}")
    try:
        assert database.write(lambda connection: place(connection, placed, node))
    finally:
        database.close()
    return {
        task: {"task_id": task, "node_id": node, "attempt_id": f"{task}:1", "username": owner.username}
        for task in (waiting, placed)
    }


@pytest.mark.parametrize("method", sorted(set(METHODS) - TELL_OF_IDS))
def test_a_stranger_does_not_learn_whether_an_id_exists(
    gateway: GatewayProcess, others: dict[str, dict[str, str]], method: str
) -> None:
    stranger = register(gateway.stubs, f"user-{secrets.token_hex(4)}", PASSWORD)
    own_node = f"{stranger.username}/node"
    register_node(stranger, own_node)
    for ids in others.values():
        task = new_task_id()
        missing = "nobody-here"
        nothing = {"task_id": task, "attempt_id": f"{task}:1", "node_id": missing, "username": missing}
        # On a node of one's own ExecuteTask is an upload, which tells that its task id is taken.
        for more in ({}, {"node_id": own_node})[: 1 if method.endswith("/ExecuteTask") else 2]:
            answers = []
            for about in ({**ids, **more}, {**nothing, **more}):
                values = {**about, "task_zip": script("print(1)"), "outcome": 1, "old_password": "a guess"}
                first = request_of(method, values).SerializeToString()
                code, message = call(gateway.channel, method, first, metadata=stranger.metadata)
                # What is answered to one's own node, or to everybody, has secrets and times in it.
                answers.append((code, "" if code is grpc.StatusCode.OK else _without_ids(message, about)))
            assert answers[0] == answers[1]


def _without_ids(message: str, ids: dict[str, str]) -> str:
    for name in ("attempt_id", "task_id", "node_id", "username"):
        message = message.replace(ids[name], name)
    return message
