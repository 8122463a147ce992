"""Notifications by mail: a real SMTP server (aiosmtpd), a code first, and no way into a header."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from dispatcher.notify import mail
from dispatcher.notify.mail import MailServer
from dispatcher.notify.webhook import NotSentError
from nodepool.domain.notifications.letters import Letter
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings_notify import SmtpTls
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE
from tests.support.certificates import Authority
from tests.support.environment import free_port
from tests.support.hostile import refused
from tests.support.notified import Notified
from tests.support.valkey import TestValkey

NO_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOT_NOW, TOO_MANY = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED
SENDER = "pool@example.org"


class Mailbox:
    """What an SMTP server took: who it is for, and the message."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], Message]] = []
        self.refuses = ""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - its name
        if self.refuses:
            return self.refuses
        self.taken.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=default)))
        return "250 taken"

    def of(self, address: str) -> list[Message]:
        return [message for receivers, message in self.taken if receivers == [address]]


@pytest.fixture(scope="module")
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
def smtp(mailbox: Mailbox) -> Iterator[Controller]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), ready_timeout=60)
    controller.start()
    yield controller
    controller.stop()


@pytest.fixture(scope="module")
def pool(
    valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory, smtp: Controller
) -> Iterator[Notified]:
    valkey_server.emptied()
    folder = tmp_path_factory.mktemp("mailed")
    settings = {"smtp_host": "127.0.0.1", "smtp_port": smtp.port, "smtp_tls": "none", "smtp_from": SENDER}
    made = Notified(folder, valkey_server, **settings)
    yield made
    made.close()


@pytest.fixture
def user(pool: Notified, mailbox: Mailbox) -> Account:
    pool.begin()
    mailbox.refuses = ""
    return pool.inner.someone()


def confirm(user: Account, name: str, code: str) -> str:
    request = pb.ConfirmNotifyTargetRequest(name=name, code=code)
    stub = user.stubs.users.ConfirmNotifyTarget
    return stub(request, metadata=user.metadata, timeout=CALL_SECONDS).message


def address_of(user: Account) -> str:
    return f"{user.username}@example.org"


def code_in(message: Message) -> str:
    found = re.search(r"hivemind notify confirm \S+ (\d{8})\n", text_of(message))
    assert found
    return found[1]


def text_of(message: Any) -> str:
    return str(message.get_content()).replace("\r\n", "\n")


def confirmed(pool: Notified, mailbox: Mailbox, user: Account) -> str:
    """The address, of the target `mail`."""
    address = address_of(user)
    assert pool.set_target(user, "mail", f"mailto:{address}").code_is_sent
    assert pool.send_all(user) == 1
    confirm(user, "mail", code_in(mailbox.of(address)[-1]))
    return address


def test_an_address_is_mailed_a_code_and_nothing_else_before_it_is_confirmed(
    pool: Notified, mailbox: Mailbox, user: Account
) -> None:
    address = address_of(user)
    answer = pool.set_target(user, "mail", f"mailto:{address}")
    assert (answer.key, answer.code_is_sent) == ("", True)
    assert not pool.targets(user)[0].confirmed
    code, words = refused(lambda: user.submit(PACKAGE, notify=["mail"]))
    assert code is NO_ARGUMENT
    assert "hivemind notify confirm mail CODE" in words
    assert pool.send_all(user) == 1
    (message,) = mailbox.of(address)
    assert confirm(user, "mail", code_in(message)) == "target mail is confirmed"
    assert confirm(user, "mail", "whatever") == "target mail was confirmed before"
    task = user.submit(PACKAGE, notify=["mail"], name="Zug früh")
    pool.end_task(task)
    assert pool.send_all(user) == 1
    told: Any = mailbox.of(address)[-1]
    assert told["subject"] == f"SUCCEEDED: task Zug früh ({task})"
    assert (told["from"], told["to"], told["auto-submitted"]) == (SENDER, address, "auto-generated")
    (row,) = pool.of(user, task)
    assert told["message-id"] == f"<{row.id}@example.org>"
    assert f"hivemind status {task}" in text_of(told)
    assert row.words == "taken by the mail server"


def test_a_wrong_code_confirms_nothing_and_few_are_taken(
    pool: Notified, mailbox: Mailbox, user: Account
) -> None:
    address = address_of(user)
    pool.set_target(user, "mail", f"mailto:{address}")
    pool.send_all(user)
    right = code_in(mailbox.of(address)[0])
    wrong = f"{(int(right) + 1) % 10**8:08}"
    for _ in range(5):
        assert refused(lambda: confirm(user, "mail", wrong))[0] is NO_ARGUMENT
    code, words = refused(lambda: confirm(user, "mail", right))
    assert code is NOT_NOW
    assert "mails a new one" in words
    pool.set_target(user, "mail", f"mailto:{address}")
    pool.send_all(user)
    again = code_in(mailbox.of(address)[1])
    assert again != right
    assert refused(lambda: confirm(user, "mail", right))[0] is NO_ARGUMENT
    assert confirm(user, "mail", again) == "target mail is confirmed"


def test_another_address_is_confirmed_anew(pool: Notified, mailbox: Mailbox, user: Account) -> None:
    confirmed(pool, mailbox, user)
    task = user.submit(PACKAGE, notify=["mail"])
    other = f"other-{address_of(user)}"
    pool.set_target(user, "mail", f"mailto:{other}")
    pool.end_task(task)
    assert pool.send_all(user) == 2  # the code, and what is dropped
    assert [each.words for each in pool.of(user, task)] == ["the address is not confirmed"]
    assert len(mailbox.of(other)) == 1


def test_nobody_is_mailed_many_codes_whoever_asks_for_them(
    pool: Notified, mailbox: Mailbox, user: Account
) -> None:
    victim = f"victim-{address_of(user)}"
    askers = [pool.inner.someone() for _ in range(3)]
    for asker in askers:
        pool.set_target(asker, "mail", f"mailto:{victim}")
    code, words = refused(lambda: pool.set_target(user, "mail", f"mailto:{victim.upper()}"))
    assert code is TOO_MANY
    assert "try again tomorrow" in words
    assert pool.targets(user) == []
    assert pool.send_all(*askers) == 3
    assert len(mailbox.of(victim)) == 3
    for number in range(5):
        pool.set_target(user, f"t{number}", f"mailto:{number}-{address_of(user)}")
    assert refused(lambda: pool.set_target(user, "t5", f"mailto:5-{address_of(user)}"))[0] is TOO_MANY


def test_what_the_server_refuses_is_tried_again(pool: Notified, mailbox: Mailbox, user: Account) -> None:
    address = confirmed(pool, mailbox, user)
    task = user.submit(PACKAGE, notify=["mail"])
    pool.end_task(task)
    mailbox.refuses = "451 try later"
    assert pool.send_all(user) == 1
    assert pool.of(user, task)[0].words == "the mail server answered 451: try later"
    mailbox.refuses = ""
    pool.ahead += 3600
    assert pool.send_all(user) == 1
    assert mailbox.of(address)[-1]["x-hivemind-event"] == pool.of(user, task)[0].id


def test_mails_are_not_signed(pool: Notified, user: Account) -> None:
    code, words = refused(lambda: pool.set_target(user, "mail", "mailto:a@example.org", rotate=True))
    assert code is NO_ARGUMENT
    assert "--rotate is for webhooks" in words


# -- the mail server ---------------------------------------------------------------------------------------
LETTER = Letter("A subject", "A text.\n")


def _server(smtp: Controller, **how: Any) -> MailServer:
    return MailServer(
        host="127.0.0.1", port=smtp.port, **{"tls": SmtpTls.NONE, "sender": SENDER, "seconds": 60.0, **how}
    )


@pytest.mark.parametrize("subject", ["a\r\nBcc: eve@example.org", "a\nb"])
def test_a_line_end_in_a_header_is_not_sent(smtp: Controller, mailbox: Mailbox, subject: str) -> None:
    """Whoever makes letters leaves none there; this is the second lock."""
    taken = len(mailbox.taken)
    with pytest.raises(ValueError, match=r"linefeed|newline"):
        mail.send(_server(smtp), "a@example.org", Letter(subject, "x"), "msg_1", 0.0)
    assert len(mailbox.taken) == taken


def test_a_login_goes_over_tls_that_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate = authority.sign("smtp", "127.0.0.1")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    mailbox, logins = Mailbox(), list[tuple[bytes, bytes]]()

    def authenticator(_server: Any, _session: Any, _envelope: Any, _mechanism: str, told: Any) -> AuthResult:
        assert isinstance(told, LoginPassword)
        logins.append((told.login, told.password))
        return AuthResult(success=told.password == b"right", handled=False)

    controller = Controller(
        mailbox, hostname="127.0.0.1", port=free_port(), ready_timeout=60, tls_context=served,
        require_starttls=True, auth_required=True, authenticator=authenticator,
    )  # fmt: skip
    controller.start()
    try:
        trust = ssl.create_default_context(cafile=str(authority.file))
        how = {"tls": SmtpTls.STARTTLS, "user": "pool", "password": "right", "trust": trust}
        mail.send(_server(controller, **how), "a@example.org", LETTER, "msg_1", 0.0)
        assert (len(mailbox.taken), logins) == (1, [(b"pool", b"right")])
        with pytest.raises(NotSentError, match="535"):
            mail.send(_server(controller, **{**how, "password": "wrong"}), "a@x.org", LETTER, "msg_2", 0.0)
        strict = {**how, "trust": ssl.create_default_context()}
        with pytest.raises(NotSentError, match="cannot be used"):
            mail.send(_server(controller, **strict), "a@example.org", LETTER, "msg_3", 0.0)
        assert len(mailbox.taken) == 1
    finally:
        controller.stop()


def test_a_mail_server_that_is_away_is_told() -> None:
    server = MailServer(host="127.0.0.1", port=free_port(), tls=SmtpTls.NONE, sender=SENDER, seconds=60.0)
    with pytest.raises(NotSentError, match="the mail server cannot be used"):
        mail.send(server, "a@example.org", LETTER, "msg_1", 0.0)
