"""The agent's line to the gateways of its pool: tokens, deadlines, retries, and one channel for everything.

Knows the protocol's messages and no rules: what an answer means for an attempt is decided elsewhere.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog

from nodepool.domain.errors import NodePoolError
from nodepool.domain.gateway_choice import is_loopback
from nodepool.gateway_lines import GatewayLine, GatewayLines
from nodepool.keepalive import grpc_client_options, way_options
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from worker_agent import wall_clock

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_MESSAGE_BYTES = 100 << 20
_CHUNK_BYTES = 256 << 10
_CALL_SECONDS = 10.0
_REPORT_SECONDS = 3.0
# A node that leaves is found out in any case: whoever stops it does not wait for a gateway that is silent.
_SIGN_OFF_SECONDS = 3.0
_STREAM_SECONDS = 300.0
_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 5.0
# A token is renewed when this part of its life is left.
_RENEW_AT_PART = 0.25
# However wrong the machine's clock is, the token is not renewed more often.
_MIN_TOKEN_SECONDS = 60.0
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # A gateway in trouble: the same request may be answered later.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)
_STALE = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND})
# The gateway is gone, goes, or does not serve: another one may.
_LINE_ENDED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_WITHOUT_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class GatewayRefusedError(NodePoolError):
    """The gateway refuses the request for good."""


class GatewayStaleError(NodePoolError):
    """The gateway says that the attempt is not this node's any more."""


class GatewayGivenUpError(NodePoolError):
    """Nobody waits for the gateway's answer any more."""


class LoginRefusedError(GatewayGivenUpError):
    """The gateway does not let the agent's owner in; until somebody changes that, no call gets through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    addresses: tuple[str, ...]  # host:port of each gateway of the pool
    username: str
    password: str
    tls: bool = False
    ca_file: Path | None = None
    allow_insecure_plaintext: bool = False


def never() -> bool:
    return False


class GatewayClient:
    """Thread-safe. `on_contact` is called whenever the gateway answers, on the caller's thread.

    So is `on_login_refused`, before LoginRefusedError is raised, which any call may raise.
    """

    def __init__(self, options: GatewayOptions, on_contact: Callable[[], None] = lambda: None) -> None:
        self._options = options
        self.on_contact = on_contact
        self.on_login_refused: Callable[[LoginRefusedError], None] = lambda _: None
        check_plain_text(options)
        self._lines = GatewayLines(options.addresses, lambda address: open_channel(options, address))
        self._users = rpc.UserServiceStub(self._lines)
        self._nodes = rpc.NodeManagerServiceStub(self._lines)
        self._closed = threading.Event()
        self._token_lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._silent = False

    def close(self) -> None:
        self._closed.set()
        self._lines.close()

    # -- the node ------------------------------------------------------------------------------------
    def log_in(self, give_up: Callable[[], bool] = never) -> None:
        """Raises LoginRefusedError when the name and the password do not fit."""
        self._retrying(self._fresh_token, give_up)

    def register(self, request: pb.RegisterWorkerNodeRequest, give_up: Callable[[], bool] = never) -> None:
        answer = self._unary(self._nodes.RegisterWorkerNode, request, give_up)
        if not answer.success:
            raise GatewayRefusedError(answer.message)

    def enroll(
        self, node_id: str, give_up: Callable[[], bool] = never, *, instance: str = ""
    ) -> pb.EnrollAgentResponse:
        answer: pb.EnrollAgentResponse = self._unary(
            self._nodes.EnrollAgent,
            pb.EnrollAgentRequest(node_id=node_id, instance=instance),
            give_up,
        )
        if not answer.success:
            raise GatewayRefusedError(answer.message)
        return answer

    def report(self, request: pb.ReportAgentRequest) -> pb.ReportAgentResponse:
        """One try at each gateway. GatewayGivenUpError when nobody answers, GatewayRefusedError for an older
        gateway."""
        tries = iter([False] * len(self._lines.addresses))
        answer: pb.ReportAgentResponse = self._unary(
            self._nodes.ReportAgent,
            request,
            lambda: next(tries, True),
            timeout_seconds=_REPORT_SECONDS,
        )
        return answer

    def set_draining(self, node_id: str, give_up: Callable[[], bool]) -> None:
        request = pb.SetNodeDrainingRequest(node_id=node_id, draining=True)
        self._unary(self._nodes.SetNodeDraining, request, give_up, timeout_seconds=_SIGN_OFF_SECONDS)

    def deregister(self, node_id: str, give_up: Callable[[], bool]) -> None:
        request = pb.DeregisterNodeRequest(node_id=node_id)
        self._unary(self._nodes.DeregisterNode, request, give_up, timeout_seconds=_SIGN_OFF_SECONDS)

    # -- attempts ------------------------------------------------------------------------------------
    def claim(
        self,
        request: pb.ClaimAttemptRequest,
        keep: Callable[[pb.AttemptSpec, Iterator[bytes]], Answer],
        give_up: Callable[[], bool],
    ) -> tuple[pb.AttemptSpec, Answer]:
        """The attempt's spec, and what `keep` made of the package's chunks.

        `keep` is called again with a new stream when one is cut off. Raises LinkStaleError when the
        attempt is not this node's, LinkGivenUpError, LinkRefusedError, and what `keep` raises.
        """

        def once() -> tuple[pb.AttemptSpec, Answer]:
            call = self._nodes.ClaimAttempt(request, timeout=_STREAM_SECONDS, metadata=self._metadata())
            try:
                first = next(iter(call), None)
                if first is None or first.WhichOneof("part") != "spec":
                    raise GatewayRefusedError(
                        "the gateway's answer to ClaimAttempt does not begin with a spec"
                    )
                return first.spec, keep(first.spec, _chunks(call, give_up, "package_chunk"))
            finally:
                call.cancel()

        return self._retrying(once, give_up)

    def fetch_input(
        self,
        request: pb.FetchInputRequest,
        keep: Callable[[Iterator[bytes]], None],
        give_up: Callable[[], bool],
    ) -> None:
        """`keep` is called again with a new stream when one is cut off. Raises as `claim` does."""

        def once() -> None:
            call = self._nodes.FetchInput(request, timeout=_STREAM_SECONDS, metadata=self._metadata())
            keep(_chunks(call, give_up, "chunk"))

        self._retrying(once, give_up)

    def append_output(
        self, request: pb.AppendOutputRequest, give_up: Callable[[], bool]
    ) -> pb.AppendOutputResponse:
        answer: pb.AppendOutputResponse = self._unary(self._nodes.AppendOutput, request, give_up)
        return answer

    def finish(self, end: pb.AttemptEnd, result: Path | None, give_up: Callable[[], bool]) -> None:
        """Until it is acknowledged. Raises LinkStaleError or LinkRefusedError when it never will be."""

        def once() -> None:
            self._nodes.FinishAttempt(
                _finish_requests(end, result), timeout=_STREAM_SECONDS, metadata=self._metadata()
            )

        self._retrying(once, give_up)

    # -- how calls are made --------------------------------------------------------------------------
    def _unary(
        self,
        method: Any,
        request: Any,
        give_up: Callable[[], bool],
        *,
        timeout_seconds: float = _CALL_SECONDS,
    ) -> Any:
        return self._retrying(
            lambda: method(request, timeout=timeout_seconds, metadata=self._metadata()), give_up
        )

    def _retrying(self, once: Callable[[], Answer], give_up: Callable[[], bool]) -> Answer:
        pause = _FIRST_PAUSE_SECONDS
        renewed = False
        while True:
            if give_up() or self._closed.is_set():
                raise GatewayGivenUpError
            began, line = time.monotonic(), self._lines.current
            try:
                answer = once()
            except grpc.RpcError as error:
                self._note_contact(error)
                if error.code() is grpc.StatusCode.UNAUTHENTICATED and not renewed:
                    renewed = True
                    self._forget_token()
                    continue
                _raise_unless_passing(error)
                if self._go_on(error, line, began):
                    continue
            except LoginRefusedError as error:
                self.on_login_refused(error)
                raise
            except ValueError:
                # The line was closed: for good, or because it was found dead while this call began.
                continue
            else:
                self._note_answer()
                return answer
            # Full jitter: the nodes of a pool must not come back all at once.
            self._closed.wait(random.uniform(pause / 2, pause))  # noqa: S311  no secret
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    def _note_contact(self, error: grpc.RpcError) -> None:
        if error.code() not in _WITHOUT_ANSWER:
            self.on_contact()

    def _go_on(self, error: grpc.RpcError, line: GatewayLine, began: float) -> bool:
        """With the next gateway, where this one is not there. Whether it is to be tried at once."""
        self._note_silence(error, line.address)
        if error.code() in _LINE_ENDED:
            return self._lines.unreachable(line)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._lines.silent(line, began)
        return False

    def _note_silence(self, error: grpc.RpcError, address: str) -> None:
        if not self._silent:
            log.warning(
                "the gateway does not answer, the agent tries on",
                action="link.silent",
                gateway=address,
                code=error.code().name,
                why=error.details(),
            )
        self._silent = True

    def _note_answer(self) -> None:
        self._lines.answered()
        if self._silent:
            log.info("a gateway answers again", action="link.answers", gateway=self._lines.current.address)
        self._silent = False
        self.on_contact()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        with self._token_lock:
            if not self._token:
                self._log_in_locked()
            elif time.monotonic() >= self._renew_at:
                self._refresh_locked()
            return (("authorization", f"Bearer {self._token}"),)

    def _fresh_token(self) -> None:
        with self._token_lock:
            self._log_in_locked()

    def _forget_token(self) -> None:
        with self._token_lock:
            self._token = ""

    def _log_in_locked(self) -> None:
        request = pb.LoginRequest(username=self._options.username, password=self._options.password)
        answer = self._users.Login(request, timeout=_CALL_SECONDS)
        if not answer.success:
            raise LoginRefusedError(
                f"the gateway refuses the login of {self._options.username}: {answer.message}. If the "
                "password was changed, start the agent with the new one (HIVEMIND_PASSWORD)"
            )
        self._keep(answer.token, answer.expires_at)

    def _refresh_locked(self) -> None:
        try:
            answer = self._users.RefreshToken(
                pb.RefreshTokenRequest(token=self._token),
                timeout=_CALL_SECONDS,
                metadata=(("authorization", f"Bearer {self._token}"),),
            )
        except grpc.RpcError as error:
            if error.code() in _WITHOUT_ANSWER:
                raise
            self._log_in_locked()
        else:
            self._keep(answer.token, answer.expires_at)

    def _keep(self, token: str, expires_at: int) -> None:
        life = expires_at - wall_clock.now() if expires_at else 0.0
        self._token = token
        self._renew_at = time.monotonic() + max(_MIN_TOKEN_SECONDS, life * (1 - _RENEW_AT_PART))


def check_plain_text(options: GatewayOptions) -> None:
    """Raises GatewayRefusedError when plain text would leave the machine without anybody having said so.

    Of all gateways at once: an agent that goes on with the next is not to find out then.
    """
    for address in () if options.tls or options.allow_insecure_plaintext else options.addresses:
        if not is_loopback(address):
            raise GatewayRefusedError(
                f"{address} is another machine and the connection would be plain text: use --tls, or "
                "--allow-insecure-plaintext where everyone on the way may read password and code"
            )


def open_channel(options: GatewayOptions, address: str) -> grpc.Channel:
    settings = [
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        *grpc_client_options(first_delay_seconds=0.1, max_delay_seconds=2.0),
        *way_options(address),
        # An agent without work has no calls open, and is to have a line that lives when work comes.
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if options.tls:
        roots = options.ca_file.read_bytes() if options.ca_file else None
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), settings)
    return grpc.insecure_channel(address, settings)


def _raise_unless_passing(error: grpc.RpcError) -> None:
    code, details = error.code(), error.details() or ""
    if code in _STALE:
        raise GatewayStaleError(details) from error
    if code not in _PASSING:
        raise GatewayRefusedError(f"{code.name}: {details}") from error


def _chunks(call: Iterator[Any], give_up: Callable[[], bool], name: str) -> Iterator[bytes]:
    for message in call:
        if give_up():
            raise GatewayGivenUpError
        yield getattr(message, name)


def _finish_requests(end: pb.AttemptEnd, result: Path | None) -> Iterator[pb.FinishAttemptRequest]:
    yield pb.FinishAttemptRequest(end=end)
    if result is None:
        return
    with result.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield pb.FinishAttemptRequest(result_chunk=chunk)
