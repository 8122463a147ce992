"""The connection to a pool's gateway: the only place of the client that touches gRPC stubs.

Adds to every call the token, a deadline and, where repeating changes nothing, retries; turns
every gRPC status into one of `hivemind.errors`. Knows nothing of what the calls mean.
"""

from __future__ import annotations

import ipaddress
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc

from hivemind.errors import (
    ClientError,
    ConfigError,
    ConflictError,
    ExistsError,
    LimitError,
    MissingError,
    NotAllowedError,
    NotLoggedInError,
    PlainTextError,
    RefusedError,
    TimedOutError,
    UnreachableError,
    UnsupportedError,
)
from nodepool.keepalive import grpc_client_options
from nodepool.protocol.nodepool_pb2_grpc import (
    AdminServiceStub,
    MasterNodeServiceStub,
    NodeManagerServiceStub,
    UserServiceStub,
)

STATUS_TO_ERROR: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAUTHENTICATED: NotLoggedInError,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowedError,
    grpc.StatusCode.NOT_FOUND: MissingError,
    grpc.StatusCode.ALREADY_EXISTS: ExistsError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.OUT_OF_RANGE: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOutError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.CANCELLED: ClientError,
    grpc.StatusCode.UNKNOWN: ClientError,
    grpc.StatusCode.INTERNAL: ClientError,
    grpc.StatusCode.DATA_LOSS: ClientError,
}
MAX_MESSAGE_BYTES = 128 << 20
# One that calls go to, and those before it with calls that were left open.
_MOST_LINES = 3
_RETRY_AFTER_MS = "retry-after-ms"
_MAX_DIGITS = 10
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+):(?P<port>\d{1,5})")

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a gateway is and how to speak to it. `address` is HOST:PORT."""

    address: str
    tls: bool = False
    ca_file: str = ""
    allow_insecure_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How calls that may be repeated are repeated while the gateway is away."""

    attempts: int = 5
    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 5.0
    # How long it is waited in all for a pool that says when to try again.
    max_wait_seconds: float = 60.0

    def delay_seconds(self, attempt: int) -> float:
        """Before attempt number `attempt` (the first repeat is 1): doubling, with jitter."""
        full = min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(attempt - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def is_loopback(address: str) -> bool:
    """Only what is loopback by its spelling: a name could resolve to anywhere."""
    host = _split(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str) -> str:
    """HOST:PORT as given, or ConfigError."""
    _split(address)
    return address


def _split(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(f"the gateway's address must be HOST:PORT, not {address[:100]!r}")
    return match["host"].strip("[]"), int(match["port"])


class GatewayChannel:
    """An open connection. Close it, or use it in a `with` statement. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token: str = "",
        retry: RetryPolicy | None = None,
        deadline_seconds: float = 30.0,
    ) -> None:
        """Nothing is sent yet. Raises PlainTextError, ConfigError (address or CA file)."""
        loopback = is_loopback(endpoint.address)
        if not (endpoint.tls or loopback or endpoint.allow_insecure_plaintext):
            raise PlainTextError(f"{endpoint.address} is another machine and the connection has no TLS")
        self.endpoint = endpoint
        self.token = token
        self.retry = retry or RetryPolicy()
        self._deadline_seconds = deadline_seconds
        self._loopback = loopback
        self._lines: deque[grpc.Channel] = deque()
        self._answered_at = float("-inf")
        self._connect()

    def _connect(self) -> None:
        """What is still open on older lines goes on there; more than a few of them nobody waits for."""
        line = _open(self.endpoint, loopback=self._loopback)
        self._lines.append(line)
        self.users = UserServiceStub(line)
        self.nodes = NodeManagerServiceStub(line)
        self.tasks = MasterNodeServiceStub(line)
        self.admin = AdminServiceStub(line)
        while len(self._lines) > _MOST_LINES:
            self._lines.popleft().close()

    def close(self) -> None:
        while self._lines:
            self._lines.popleft().close()

    def __enter__(self) -> GatewayChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        idempotent: bool = True,
        with_token: bool = True,
        deadline_seconds: float | None = None,
    ) -> _Response:
        """One answer. Idempotent calls are repeated while the gateway is unavailable."""
        metadata = self._metadata() if with_token else ()
        return self._attempts(
            lambda: method(request, timeout=deadline_seconds or self._deadline_seconds, metadata=metadata),
            idempotent=idempotent,
        )

    def upload(
        self,
        method: grpc.StreamUnaryMultiCallable[_Request, _Response],
        requests: Callable[[], Iterator[_Request]],
        *,
        deadline_seconds: float,
    ) -> _Response:
        """Send a stream, get one answer. `requests` is asked again for each repeat."""
        return self._attempts(
            lambda: method(requests(), timeout=deadline_seconds, metadata=self._metadata()), idempotent=True
        )

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        *,
        deadline_seconds: float | None = None,
    ) -> Iterator[_Response]:
        """Answers as they come, without retries: only the caller knows where to go on.

        Without a deadline it may last for ever; a dead peer is noticed by keepalive.
        """
        with self._errors():
            call = method(request, timeout=deadline_seconds, metadata=self._metadata())
            try:
                yield from call
            finally:
                call.cancel()

    def pause(self, attempt: int) -> None:
        """Wait as the retry policy says before repeat number `attempt`."""
        time.sleep(self.retry.delay_seconds(attempt))

    def _attempts(self, send: Callable[[], _Response], *, idempotent: bool) -> _Response:
        attempt, waited = 1, 0.0
        while True:
            began, line = time.monotonic(), self._lines[-1]
            try:
                with self._errors():
                    answer = send()
            except TimedOutError:
                # The line may be dead in a way that pings do not show: the next call has another.
                if self._answered_at < began and self._lines[-1] is line:
                    self._connect()
                raise
            except UnreachableError:
                if not idempotent or attempt >= self.retry.attempts:
                    raise
                self.pause(attempt)
                attempt += 1
            except LimitError as error:
                # Nothing was done, so it may be sent again whatever it is.
                seconds = error.retry_after_seconds
                waited += seconds
                if not seconds or waited > self.retry.max_wait_seconds:
                    raise
                time.sleep(seconds + self.retry.delay_seconds(1))
            else:
                self._answered_at = time.monotonic()
                return answer

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _client_error(error, self.endpoint) from None


def _client_error(error: grpc.RpcError, endpoint: Endpoint) -> ClientError:
    # What a call raises is a grpc.Call too, but its type does not say so.
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = " ".join((error.details() or "").split()) if isinstance(error, grpc.Call) else str(error)
    kind = STATUS_TO_ERROR.get(code, ClientError)
    if kind is UnreachableError:
        return _unreachable(details, endpoint)
    if kind is TimedOutError:
        return TimedOutError(f"the pool at {endpoint.address} did not answer in time")
    if kind is LimitError:
        return LimitError(details or None, retry_after_seconds=_retry_after(error))
    if kind is ClientError:
        return ClientError(f"the pool failed ({code.name}): {details or 'no details'}")
    return kind(details or None)


def _retry_after(error: grpc.RpcError) -> float:
    """When the pool says that the same call may be answered; 0 where it does not say, or not sensibly."""
    text = ""
    if isinstance(error, grpc.Call):
        for key, value in error.trailing_metadata() or ():
            text = str(value) if key == _RETRY_AFTER_MS else text
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else 0.0


def _unreachable(details: str, endpoint: Endpoint) -> UnreachableError:
    message = f"the pool at {endpoint.address} cannot be reached: {details or 'no details'}"
    lowered = details.casefold()
    if "certificate" in lowered or "ssl" in lowered or "handshake" in lowered:
        return UnreachableError(message, hint="does the gateway use TLS, and is --ca-file its authority's?")
    return UnreachableError(message)


def _open(endpoint: Endpoint, *, loopback: bool) -> grpc.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        *grpc_client_options(first_delay_seconds=0.2, max_delay_seconds=2.0),
    ]
    if loopback:
        # A proxy set for the web is no way to this machine.
        options.append(("grpc.enable_http_proxy", 0))
    if not endpoint.tls:
        return grpc.insecure_channel(endpoint.address, options=options)
    authority: bytes | None = None
    if endpoint.ca_file:
        try:
            authority = Path(endpoint.ca_file).read_bytes()
        except OSError as error:
            raise ConfigError(f"the CA file cannot be read: {error}") from error
    return grpc.secure_channel(
        endpoint.address, grpc.ssl_channel_credentials(root_certificates=authority), options=options
    )
