"""The connection to a pool's gateways: the only place of the client that touches gRPC stubs.

Adds to every call the token, a deadline and repeats, at whichever gateway can be reached; turns every gRPC
status into one of `hivemind.errors`. Knows nothing of what the calls mean.
"""

from __future__ import annotations

import random
import time
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
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.gateway_choice import gateway_addresses, is_loopback, split_address
from nodepool.gateway_lines import GatewayLines
from nodepool.keepalive import grpc_client_options, way_options
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
    # Nobody here cancels a call and waits for it: its gateway did, or what stands between.
    grpc.StatusCode.CANCELLED: UnreachableError,
    grpc.StatusCode.UNKNOWN: ClientError,
    grpc.StatusCode.INTERNAL: ClientError,
    grpc.StatusCode.DATA_LOSS: ClientError,
}
MAX_MESSAGE_BYTES = 128 << 20
# What gRPC says of a line that broke in the middle of a call, beside UNAVAILABLE.
_BROKEN_OFF = ("rst_stream", "stream removed", "socket closed")
# What it says where the next try would end as this one.
_NOT_PASSING = ("certificate", "wrong_version_number", "expected settings frame")
# How it says that TLS was answered in plain text, and plain text by something else than a gateway.
_IN_THE_CLEAR = "wrong_version_number"
_NOT_HTTP2 = ("failed parsing http/2", "settings frame", "socket closed")
_RETRY_AFTER_MS = "retry-after-ms"
_MAX_DIGITS = 10

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a pool's gateways are, and how to speak to them. `address`: HOST:PORT, or several with commas."""

    address: str
    tls: bool = False
    ca_file: str = ""
    allow_insecure_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How calls that may be repeated are repeated while no gateway can be reached."""

    # For so long it is tried again.
    patience_seconds: float = 60.0
    # So often each gateway is tried at the most; 0: as often as there is time.
    attempts: int = 0
    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 5.0
    # How long it is waited in all for a pool that says when to try again.
    max_wait_seconds: float = 60.0

    def delay_seconds(self, attempt: int) -> float:
        """Before attempt number `attempt` (the first repeat is 1): doubling, with jitter."""
        full = min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(attempt - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def check_address(address: str) -> str:
    """HOST:PORT as given, or ConfigError."""
    with _config_errors():
        split_address(address)
    return address


@contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise ConfigError(str(error)) from error


class GatewayChannel:
    """An open connection. Close it, or use it in a `with` statement. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token: str = "",
        retry: RetryPolicy | None = None,
        deadline_seconds: float = 30.0,
        first: str = "",
    ) -> None:
        """Nothing is sent yet. `first` is an address that is known to work.

        Raises PlainTextError, ConfigError (address or CA file).
        """
        with _config_errors():
            addresses = gateway_addresses((endpoint.address,))
        for address in addresses:
            if not (endpoint.tls or is_loopback(address) or endpoint.allow_insecure_plaintext):
                raise PlainTextError(f"{address} is another machine and the connection has no TLS")
        self.endpoint = endpoint
        self.token = token
        self.retry = retry or RetryPolicy()
        # Told once, when a call begins to wait for a pool that cannot be reached.
        self.on_wait: Callable[[UnreachableError, float], None] = lambda _error, _seconds: None
        self._waits = False
        self._deadline_seconds = deadline_seconds
        self.lines = GatewayLines(addresses, lambda address: _open(endpoint, address), first=first)
        self.users = UserServiceStub(self.lines)
        self.nodes = NodeManagerServiceStub(self.lines)
        self.tasks = MasterNodeServiceStub(self.lines)
        self.admin = AdminServiceStub(self.lines)

    def close(self) -> None:
        self.lines.close()

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
        with_token: bool = True,
        deadline_seconds: float | None = None,
    ) -> _Response:
        """One answer. Repeated while no gateway can be reached, so the caller knows what a second time does:
        an error says by `after_unanswered` whether an earlier try may have arrived."""
        metadata = self._metadata() if with_token else ()
        return self._attempts(
            lambda: method(request, timeout=deadline_seconds or self._deadline_seconds, metadata=metadata)
        )

    def upload(
        self,
        method: grpc.StreamUnaryMultiCallable[_Request, _Response],
        requests: Callable[[], Iterator[_Request]],
        *,
        deadline_seconds: float,
    ) -> _Response:
        """Send a stream, get one answer. `requests` is asked again for each repeat."""
        return self._attempts(lambda: method(requests(), timeout=deadline_seconds, metadata=self._metadata()))

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
        line = self.lines.current
        try:
            with self._errors():
                call = method(request, timeout=deadline_seconds, metadata=self._metadata())
                try:
                    for answer in call:
                        self._answered()
                        yield answer
                finally:
                    call.cancel()
        except TimedOutError:
            raise
        except UnreachableError as error:
            error.try_at_once = self.lines.unreachable(line)
            raise

    def _attempts(self, send: Callable[[], _Response]) -> _Response:
        retries, waited = Retries(self), 0.0
        while True:
            tried_at, line = time.monotonic(), self.lines.current
            try:
                with self._errors():
                    answer = send()
            except TimedOutError as error:
                # Where nobody else can be asked, the same would only cost a busy pool the work once more.
                error.after_unanswered = True
                error.try_at_once = self.lines.silent(line, tried_at)
                error.passing = False
                retries.failed(error)
            except UnreachableError as error:
                error.try_at_once = self.lines.unreachable(line)
                retries.failed(error)
            except LimitError as error:
                # Nothing was done, so it may be sent again whatever it is.
                self._answered()
                seconds = error.retry_after_seconds
                waited += seconds
                if not seconds or waited > self.retry.max_wait_seconds:
                    raise
                time.sleep(seconds + self.retry.delay_seconds(1))
            except ClientError as error:
                self._answered()
                error.after_unanswered = retries.unanswered
                raise
            else:
                self._answered()
                return answer

    def _answered(self) -> None:
        self._waits = False
        self.lines.answered()

    def tell_wait(self, error: UnreachableError, seconds_left: float) -> None:
        """Once, until somebody is answered again."""
        if not self._waits:
            self._waits = True
            self.on_wait(error, seconds_left)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _client_error(error, self.endpoint) from None
        except ValueError as error:
            # The line was closed under this call, because others have found it dead.
            raise UnreachableError(f"the connection to the pool was closed: {error}") from None


class Retries:
    """How one call, or one watch, is tried again. For one thread."""

    def __init__(self, gateway: GatewayChannel) -> None:
        self._gateway = gateway
        self._rounds, self._since = 0, 0.0
        self.unanswered = False  # an earlier try may have arrived

    def worked(self) -> None:
        self._rounds = 0

    def failed(self, error: UnreachableError, patience_seconds: float | None = None) -> None:
        """Waits until the next try, or raises `error` when there is none."""
        retry, now = self._gateway.retry, time.monotonic()
        self.unanswered = error.after_unanswered = self.unanswered or not error.never_sent
        if error.try_at_once:
            return
        self._rounds += 1
        if self._rounds == 1:
            self._since = now
        patience = retry.patience_seconds if patience_seconds is None else patience_seconds
        left = patience - (now - self._since)
        if left <= 0 or not error.passing or self._rounds == retry.attempts:
            raise error
        self._gateway.tell_wait(error, left)
        time.sleep(min(left, retry.delay_seconds(self._rounds)))


def _client_error(error: grpc.RpcError, endpoint: Endpoint) -> ClientError:
    # What a call raises is a grpc.Call too, but its type does not say so.
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = " ".join((error.details() or "").split()) if isinstance(error, grpc.Call) else str(error)
    kind = STATUS_TO_ERROR.get(code, ClientError)
    if kind is UnreachableError or (
        kind is ClientError and any(words in details.casefold() for words in _BROKEN_OFF)
    ):
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
    lowered = details.casefold()
    hint: str | None = None
    if _IN_THE_CLEAR in lowered:
        details = "it answers in plain text, and TLS was asked for"
        hint = "use --no-tls where nobody else can read the line, or see that its TLS is on"
    elif endpoint.tls and any(words in lowered for words in ("certificate", "ssl", "handshake")):
        hint = "is --ca-file its authority's, and does its certificate have this name?"
    elif not endpoint.tls and any(words in lowered for words in _NOT_HTTP2):
        hint = "is it a pool's gateway, and does it use TLS? Then --tls is missing"
    message = f"the pool at {endpoint.address} cannot be reached: {details or 'no details'}"
    error = UnreachableError(message, hint=hint)
    error.passing = not any(words in lowered for words in _NOT_PASSING)
    error.never_sent = "failed to connect to" in lowered or "dns resolution failed" in lowered
    return error


def _open(endpoint: Endpoint, address: str) -> grpc.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        *grpc_client_options(first_delay_seconds=0.2, max_delay_seconds=2.0),
        *way_options(address),
    ]
    if not endpoint.tls:
        return grpc.insecure_channel(address, options=options)
    authority: bytes | None = None
    if endpoint.ca_file:
        try:
            authority = Path(endpoint.ca_file).read_bytes()
        except OSError as error:
            raise ConfigError(f"the CA file cannot be read: {error}") from error
    return grpc.secure_channel(
        address, grpc.ssl_channel_credentials(root_certificates=authority), options=options
    )
