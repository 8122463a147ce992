"""One POST to a webhook that is up to something: real sockets, real TLS, names that a test answers for."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from dispatcher.notify import webhook
from dispatcher.notify.webhook import NotSentError, WebhookReach
from nodepool.domain.nodes.push_addresses import parse_networks
from nodepool.domain.notifications.targets import webhook_of
from tests.support.certificates import Authority
from tests.support.environment import free_port
from tests.support.receivers import Receiver, says, status

LOOPBACK = parse_networks("127.0.0.0/8")
# Long beside what an answer takes here, however busy the machine is.
PATIENT = 60.0


@pytest.fixture(scope="module")
def names() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def reach(names: ThreadPoolExecutor) -> WebhookReach:
    """Names resolve to this machine, which the operator allows."""
    tls = ssl.create_default_context()
    return WebhookReach(
        networks=LOOPBACK, names=names, lookup=lambda _: ["127.0.0.1"], seconds=PATIENT, tls=tls
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def post(reach: WebhookReach, url: str) -> int:
    return webhook.post(reach, webhook_of(url), {"webhook-id": "msg_1"}, b'{"a":1}')


def why_not(reach: WebhookReach, url: str) -> str:
    with pytest.raises(NotSentError) as told:
        post(reach, url)
    return str(told.value)


def test_it_comes_as_it_is(reach: WebhookReach, receiver: Receiver) -> None:
    assert post(reach, receiver.url) == 200
    (came,) = receiver.came
    assert came.line == "POST /hook?to=me HTTP/1.1"
    assert came.body == b'{"a":1}'
    assert came.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (came.headers["content-type"], came.headers["webhook-id"]) == ("application/json", "msg_1")


def test_a_name_is_asked_for_once_and_its_checked_address_is_connected_to(
    reach: WebhookReach, receiver: Receiver
) -> None:
    """An answer that changes between the check and the connection changes nothing."""
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    assert post(replace(reach, lookup=lookup), f"http://hooks.example.org:{receiver.port}/x") == 200
    assert asked == ["hooks.example.org"]
    assert receiver.came[0].headers["host"] == f"hooks.example.org:{receiver.port}"


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (["169.254.169.254"], "hands out secrets"),
        (["127.0.0.1", "169.254.169.254"], "hands out secrets"),
        (["::ffff:169.254.169.254"], "hands out secrets"),
        (["fd00:ec2::254"], "hands out secrets"),
        (["0.0.0.0"], "no single machine"),
        (["224.0.0.1"], "no single machine"),
        (["10.1.2.3"], "PUSH_ALLOWED_NETWORKS"),
        (["192.168.0.1"], "PUSH_ALLOWED_NETWORKS"),
        (["::1"], "PUSH_ALLOWED_NETWORKS"),
        (["fe80::1%eth0"], "PUSH_ALLOWED_NETWORKS"),
        (["64:ff9b::7f00:1"], "PUSH_ALLOWED_NETWORKS"),
        (["2002:7f00:1::"], "PUSH_ALLOWED_NETWORKS"),
        (["100.64.0.1"], "PUSH_ALLOWED_NETWORKS"),
        ([], "no address"),
        (["not an address"], "could not be resolved"),
    ],
)
def test_a_name_with_a_forbidden_address_is_not_called(
    reach: WebhookReach, receiver: Receiver, addresses: list[str], words: str
) -> None:
    told = why_not(replace(reach, lookup=lambda _: addresses), f"http://evil.example.org:{receiver.port}/")
    assert words in told
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "169.254.169.254"])
def test_an_address_that_the_operator_does_not_allow_is_not_called(
    reach: WebhookReach, receiver: Receiver, host: str
) -> None:
    told = why_not(replace(reach, networks=()), f"http://{host}:{receiver.port}/")
    assert "never called" in told or "does not call" in told
    assert receiver.connections == 0


def test_a_name_that_nobody_knows_is_told(reach: WebhookReach) -> None:
    def lookup(_: str) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    told = why_not(replace(reach, lookup=lookup), "https://nowhere.example.org/")
    assert told.startswith("the name nowhere.example.org could not be resolved")


def test_a_redirect_is_not_followed(reach: WebhookReach, receiver: Receiver) -> None:
    with Receiver() as other:
        for code in (301, 302, 303, 307, 308):
            receiver.answer = status(code, f"Location: {other.url}")
            assert f"answered {code}: redirects are not followed" in why_not(reach, receiver.url)
        assert other.connections == 0


@pytest.mark.parametrize("code", [400, 401, 404, 410, 429, 500, 503])
def test_an_error_is_told_without_its_words(reach: WebhookReach, receiver: Receiver, code: int) -> None:
    """What an inner service would say to the pool is not for whoever set its address."""
    receiver.answer = says(f"HTTP/1.1 {code} Inner\r\nContent-Length: 6\r\n\r\nsecret".encode())
    assert why_not(reach, receiver.url) == f"answered {code}"


def test_ten_megabytes_are_not_read(reach: WebhookReach, receiver: Receiver) -> None:
    sent: list[int] = []

    def answers(connection: socket.socket, _number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
        for _ in range(160):
            connection.sendall(b"x" * 65536)
            sent.append(65536)

    receiver.answer = answers
    assert post(reach, receiver.url) == 200
    receiver.close()
    # What the kernels' buffers of both sides take is sent, and no more.
    assert sum(sent) < 10485760


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example.org ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % number for number in range(200)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"\x16\x03\x01\x00\x00",
    ],
)
def test_what_is_no_answer_is_told(reach: WebhookReach, receiver: Receiver, answer: bytes) -> None:
    receiver.answer = says(answer)
    if b"zzz" in answer:  # it has said 200: what follows it is not looked at
        assert post(reach, receiver.url) == 200
    else:
        assert why_not(reach, receiver.url)


def _drips(connection: socket.socket, receiver: Receiver, data: bytes) -> None:
    while not receiver.let_go.wait(0.1):
        connection.sendall(data)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_one_that_never_ends_its_answer_is_given_up(
    reach: WebhookReach, receiver: Receiver, begin: bytes
) -> None:
    """It hangs, says a byte now and then, or says for ever that it goes on."""

    def answers(connection: socket.socket, _number: int) -> None:
        if not begin:
            receiver.hangs(connection, 1)
            return
        connection.sendall(begin)
        _drips(connection, receiver, begin if b"100" in begin else b"x")

    receiver.answer = answers
    began = monotonic()
    assert why_not(replace(reach, seconds=1.0), receiver.url) == "127.0.0.1 did not answer within 1 s"
    assert monotonic() - began < PATIENT


def test_one_that_does_not_shake_hands_is_given_up(reach: WebhookReach) -> None:
    """TLS asked of a server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        told = why_not(replace(reach, seconds=1.0), f"https://127.0.0.1:{port}/")
    assert told == "127.0.0.1 did not answer within 1 s"


def test_nobody_there_is_told(reach: WebhookReach) -> None:
    port = free_port()
    assert why_not(reach, f"http://127.0.0.1:{port}/") == f"nobody answers at 127.0.0.1:{port}"


def test_a_certificate_must_be_of_the_name_and_trusted(reach: WebhookReach, tmp_path: Path) -> None:
    """Though it is an address that is connected to."""
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    trusting = replace(reach, tls=ssl.create_default_context(cafile=str(authority.file)))
    with Receiver(certificate=authority.sign("hook", "hooks.example.org")) as receiver:
        named = f"https://hooks.example.org:{receiver.port}/"
        assert post(trusting, named) == 200
        assert "certificate is not trusted" in why_not(
            trusting, f"https://other.example.org:{receiver.port}/"
        )
        assert "certificate is not trusted" in why_not(trusting, f"https://127.0.0.1:{receiver.port}/")
        assert "certificate is not trusted" in why_not(reach, named)
        assert post(trusting, named) == 200  # what came between has changed nothing
        assert len(receiver.came) == 2
    with Receiver(certificate=stranger.sign("hook2", "hooks.example.org")) as receiver:
        told = why_not(trusting, f"https://hooks.example.org:{receiver.port}/")
        assert "certificate is not trusted" in told


def test_plain_text_where_tls_is_asked_for_is_told(reach: WebhookReach) -> None:
    with Receiver(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as receiver:
        url = receiver.url.replace("http:", "https:")
        assert why_not(reach, url) == "it does not speak TLS as it should"


def test_proxies_of_the_environment_are_not_asked(
    reach: WebhookReach, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(reach, receiver.url) == 200
        assert proxy.connections == 0
