"""The connection to a pool's gateways: the only place of the client that touches gRPC stubs.

Adds to every call the token, a deadline and repeats, at whichever gateway can be reached; turns every gRPC
status into one of `hivemind.errors`. Knows nothing of what the calls mean.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from hivemind.errors import (
    ClientError,
    ConfigError,
    LimitError,
    PlainTextError,
    TimedOutError,
    UnreachableError,
)
from hivemind.grpc_errors import STATUS_TO_ERROR, client_error
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

MAX_MESSAGE_BYTES = 128 << 20

__all__ = ["STATUS_TO_ERROR", "Endpoint", "GatewayChannel", "RetryPolicy", "check_address", "is_loopback"]

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


class Gateways(ABC):
    """The lines to a pool's gateways with what every call on them has; how it is waited for is a
    subclass's."""

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
        self.lines = GatewayLines(addresses, self._open, first=first, close_line=self._close)
        self.users = UserServiceStub(self.lines)
        self.nodes = NodeManagerServiceStub(self.lines)
        self.tasks = MasterNodeServiceStub(self.lines)
        self.admin = AdminServiceStub(self.lines)

    @abstractmethod
    def _open(self, address: str) -> Any:
        """A channel to one gateway."""

    @abstractmethod
    def _close(self, channel: Any) -> None:
        """The channel is not used any more."""

    def answered(self) -> None:
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
            raise client_error(error, self.endpoint.address, tls=self.endpoint.tls) from None
        except (ValueError, grpc.aio.UsageError) as error:
            # The line was closed under this call, because others have found it dead.
            raise UnreachableError(f"the connection to the pool was closed: {error}") from None


class GatewayChannel(Gateways):
    """An open connection. Close it, or use it in a `with` statement. Safe to use from several threads."""

    def _open(self, address: str) -> grpc.Channel:
        options = line_options(address)
        if not self.endpoint.tls:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, credentials_of(self.endpoint), options=options)

    def _close(self, channel: grpc.Channel) -> None:
        channel.close()

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
                        self.answered()
                        yield answer
                finally:
                    call.cancel()
        except TimedOutError:
            raise
        except UnreachableError as error:
            error.try_at_once = self.lines.unreachable(line)
            raise

    def _attempts(self, send: Callable[[], _Response]) -> _Response:
        tries = Tries(self)
        while True:
            tries.begin()
            try:
                with self._errors():
                    answer = send()
            except ClientError as error:
                time.sleep(tries.pause_after(error))
            else:
                self.answered()
                return answer


class Tries:
    """One call, tried again as long as that may help. For one thread, or one task of an event loop."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways, self._retries = gateways, Retries(gateways)
        self._waited = self._tried_at = 0.0
        self._line = gateways.lines.current

    def begin(self) -> None:
        self._tried_at, self._line = time.monotonic(), self._gateways.lines.current

    def pause_after(self, error: ClientError) -> float:
        """How long it is waited before the next try. Raises `error` where there is none."""
        lines, retry = self._gateways.lines, self._gateways.retry
        match error:
            case TimedOutError():
                # Where nobody else can be asked, the same would only cost a busy pool the work once more.
                error.after_unanswered = True
                error.try_at_once = lines.silent(self._line, self._tried_at)
                error.passing = False
                return self._retries.pause_after(error)
            case UnreachableError():
                error.try_at_once = lines.unreachable(self._line)
                return self._retries.pause_after(error)
            case LimitError(retry_after_seconds=seconds):
                # Nothing was done, so it may be sent again whatever it is.
                self._gateways.answered()
                self._waited += seconds
                if not seconds or self._waited > retry.max_wait_seconds:
                    raise error
                return seconds + retry.delay_seconds(1)
            case _:
                self._gateways.answered()
                error.after_unanswered = self._retries.unanswered
                raise error


class Retries:
    """How one call, or one watch, is tried again. For one thread."""

    def __init__(self, gateway: Gateways) -> None:
        self._gateway = gateway
        self._rounds, self._since = 0, 0.0
        self.unanswered = False  # an earlier try may have arrived

    def worked(self) -> None:
        self._rounds = 0

    def failed(self, error: UnreachableError, patience_seconds: float | None = None) -> None:
        """Waits until the next try, or raises `error` when there is none."""
        time.sleep(self.pause_after(error, patience_seconds))

    def pause_after(self, error: UnreachableError, patience_seconds: float | None = None) -> float:
        """How long it is waited before the next try. Raises `error` where there is none."""
        retry, now = self._gateway.retry, time.monotonic()
        self.unanswered = error.after_unanswered = self.unanswered or not error.never_sent
        if error.try_at_once:
            return 0.0
        self._rounds += 1
        if self._rounds == 1:
            self._since = now
        patience = retry.patience_seconds if patience_seconds is None else patience_seconds
        left = patience - (now - self._since)
        if left <= 0 or not error.passing or self._rounds == retry.attempts:
            raise error
        self._gateway.tell_wait(error, left)
        return min(left, retry.delay_seconds(self._rounds))


def line_options(address: str) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        *grpc_client_options(first_delay_seconds=0.2, max_delay_seconds=2.0),
        *way_options(address),
    ]


def credentials_of(endpoint: Endpoint) -> grpc.ChannelCredentials:
    """Raises ConfigError for a CA file that cannot be read."""
    authority: bytes | None = None
    if endpoint.ca_file:
        try:
            authority = Path(endpoint.ca_file).read_bytes()
        except OSError as error:
            raise ConfigError(f"the CA file cannot be read: {error}") from error
    return grpc.ssl_channel_credentials(root_certificates=authority)
