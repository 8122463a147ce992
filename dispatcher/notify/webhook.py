"""One POST to a webhook: to the address that was checked and to no other, within one deadline.

Whoever sets a webhook chooses where the pool connects to, so the name is resolved once, every address that it
has is asked about (nodepool.domain.nodes.push_addresses), and the connection goes to the one that was chosen.
No redirect is followed, no proxy of the environment is asked, nothing of the answer is kept but its status.
Knows nothing of notifications.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from dispatcher.stranger_names import RESOLVING_ERRORS, Resolve, addresses_in, not_resolved
from nodepool.domain.errors import NodePoolError
from nodepool.domain.nodes.push_addresses import Address, Network, choose_reachable, literal
from nodepool.domain.notifications.targets import Webhook
from nodepool.domain.tasks.pool_result import printable

# Of the answer: so that its sender sees it taken, and no more whatever it sends.
_MAX_ANSWER_BYTES = 4 << 10
_OK, _REDIRECT, _ERROR = 200, 300, 400
# It would write down what a stranger's machine says that is no HTTP.
logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL)
_AGENT = "HiveMind-Notifications/1"
_ERRORS = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)


class NotSentError(NodePoolError):
    """It was not sent, or nobody said that it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReach:
    """How webhooks are reached: `names` are threads for resolving, `seconds` one try's deadline."""

    networks: Sequence[Network]
    names: Executor
    lookup: Resolve
    seconds: float
    tls: ssl.SSLContext


def post(reach: WebhookReach, webhook: Webhook, headers: Mapping[str, str], body: bytes) -> int:
    """The status that it answered, 200 to 299. Raises NotSentError with the reason in words."""
    until = monotonic() + reach.seconds
    address = _address_of(reach, webhook.host)
    with _Deadline(until) as deadline:
        connection = _connection(reach, webhook, address, deadline)
        try:
            status = _answer(connection, webhook, headers, body, deadline)
        except _ERRORS as error:
            raise NotSentError(_why(error, webhook, reach.seconds, late=deadline.is_over)) from None
        finally:
            connection.close()
    if _OK <= status < _REDIRECT:
        return status
    if _REDIRECT <= status < _ERROR:
        raise NotSentError(f"answered {status}: redirects are not followed; set the URL that it points to")
    raise NotSentError(f"answered {status}")


def _address_of(reach: WebhookReach, host: str) -> Address:
    try:
        address = literal(host)
        if address is not None:
            return choose_reachable([address], networks=reach.networks)
        found = addresses_in(_in_time(reach, host))
        return choose_reachable(found, networks=reach.networks)
    except RESOLVING_ERRORS as error:
        raise NotSentError(str(not_resolved(host, error))) from None
    except NodePoolError as error:
        raise NotSentError(str(error)) from None


def _in_time(reach: WebhookReach, host: str) -> Sequence[str]:
    asked = reach.names.submit(reach.lookup, host)
    try:
        return asked.result(reach.seconds)
    finally:
        asked.cancel()  # where no thread has begun with it


def _answer(
    connection: HTTPConnection,
    webhook: Webhook,
    headers: Mapping[str, str],
    body: bytes,
    deadline: _Deadline,
) -> int:
    connection.request(
        "POST",
        webhook.path,
        body=body,
        headers={
            "Host": webhook.authority,
            "Content-Type": "application/json",
            "User-Agent": _AGENT,
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        },
        preload_content=False,
        decode_content=False,
    )
    response = connection.getresponse()
    with closing(response):  # the socket may be its own now
        if deadline.is_over:  # what was cut off looks like the end of its headers
            raise TimeoutError
        with suppress(*_ERRORS):  # it has answered: that counts
            response.read(_MAX_ANSWER_BYTES, decode_content=False)
        return response.status


class _Deadline:
    """Ends what is sent and read on a socket at a moment, however often a byte comes meanwhile."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None
        self.is_over = False

    @property
    def left_seconds(self) -> float:
        return max(0.001, self._until - monotonic())

    def watch(self, connected: socket.socket) -> None:
        """TLS takes the socket's descriptor for its own: so this one has another for the same connection."""
        with self._lock:
            self._socket = connected.dup()
            self._timer = threading.Timer(self.left_seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> _Deadline:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _connection(
    reach: WebhookReach, webhook: Webhook, address: Address, deadline: _Deadline
) -> HTTPConnection:
    class PlainConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _watched(super()._new_conn(), deadline)

    class TlsConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _watched(super()._new_conn(), deadline)

    options: dict[str, Any] = {"port": webhook.port, "timeout": deadline.left_seconds}
    if not webhook.is_tls:
        return PlainConnection(str(address), **options)
    # The certificate must be the name's, though it is the address that is connected to.
    return TlsConnection(
        str(address),
        **options,
        ssl_context=reach.tls,
        server_hostname=webhook.host,
    )


def _watched(connected: socket.socket, deadline: _Deadline) -> socket.socket:
    deadline.watch(connected)
    return connected


def _why(error: Exception, webhook: Webhook, seconds: float, *, late: bool) -> str:
    cause = error
    while (inner := cause.__cause__ or getattr(cause, "reason", None)) and isinstance(inner, Exception):
        cause = inner
    if late or isinstance(cause, TimeoutError):
        return f"{webhook.host} did not answer within {seconds:g} s"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {printable(cause.verify_message)}"
    if isinstance(cause, ssl.SSLError):
        return "it does not speak TLS as it should"
    if isinstance(cause, ConnectionRefusedError):
        return f"nobody answers at {webhook.host}:{webhook.port}"
    if isinstance(cause, OSError):
        return f"it cannot be reached: {printable(cause.strerror or str(cause))}"
    return "its answer is not HTTP"
