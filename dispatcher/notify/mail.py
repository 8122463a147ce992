"""One mail by the operator's SMTP server, which is trusted as the operator's other servers are.

Headers are made by `email`, which refuses what would begin another one. Knows nothing of notifications.
"""

from __future__ import annotations

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from dispatcher.notify.webhook import NotSentError
from nodepool.domain.notifications.letters import Letter
from nodepool.domain.tasks.pool_result import printable
from nodepool.settings_notify import SmtpTls


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    host: str
    port: int
    tls: SmtpTls
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)
    seconds: float = 10.0  # for each of its answers
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context, repr=False)


def moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def send(server: MailServer, address: str, letter: Letter, event_id: str, at: float) -> str:
    """What the server answered. The message has the event's id, so that a second copy is seen to be one.

    Raises NotSentError with the reason in words."""
    message = _message(server, address, letter, event_id, at)
    try:
        with _connected(server) as smtp:
            if server.user:
                smtp.login(server.user, server.password)
            refused = smtp.send_message(message, server.sender, [address])
    except smtplib.SMTPResponseException as error:
        raise NotSentError(
            f"the mail server answered {error.smtp_code}: {_words(error.smtp_error)}"
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        raise NotSentError(f"the mail server does not take the address: {code} {_words(said)}") from None
    except TimeoutError:
        raise NotSentError(f"the mail server did not answer within {server.seconds:g} s") from None
    except (OSError, smtplib.SMTPException) as error:
        raise NotSentError(f"the mail server cannot be used: {printable(str(error))}") from None
    if refused:
        raise NotSentError("the mail server does not take the address")
    return "taken by the mail server"


def _words(said: bytes | str) -> str:
    return printable(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)


def _connected(server: MailServer) -> smtplib.SMTP:
    if server.tls is SmtpTls.TLS:
        return smtplib.SMTP_SSL(server.host, server.port, timeout=server.seconds, context=server.trust)
    smtp = smtplib.SMTP(server.host, server.port, timeout=server.seconds)
    if server.tls is SmtpTls.STARTTLS:
        try:
            smtp.starttls(context=server.trust)
        except BaseException:
            with suppress(OSError):
                smtp.close()
            raise
    return smtp


def _message(server: MailServer, address: str, letter: Letter, event_id: str, at: float) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = server.sender
    message["To"] = address
    message["Subject"] = letter.subject
    message["Date"] = formatdate(at)
    message["Message-ID"] = f"<{event_id}@{server.sender.rpartition('@')[2]}>"
    # So that no machine answers it.
    message["Auto-Submitted"] = "auto-generated"
    message["X-HiveMind-Event"] = event_id
    message.set_content(letter.text)
    return message
