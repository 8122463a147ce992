"""How a pool's steps are done, and that the token lasts: it is renewed while there is time, and read again
from the profile when another `hivemind login` has put a new one there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hivemind import aio_channel, steps
from hivemind.channel import Endpoint, GatewayChannel, Gateways, RetryPolicy
from hivemind.errors import ClientError, NotLoggedInError
from hivemind.steps import Call, Step, Steps
from hivemind.tokens import read_token
from nodepool.protocol import nodepool_pb2 as pb

_RENEW_SECONDS = 3600.0
_ASK_AGAIN_SECONDS = 60.0
_Result = TypeVar("_Result")


class LastingToken:
    """The token on one connection. `kept` reads what is kept for it on this machine."""

    def __init__(self, gateways: Gateways, kept: Callable[[], str] = lambda: "") -> None:
        self._gateways, self._kept = gateways, kept
        self._asked_at = float("-inf")

    def check(self) -> None:
        if not self._gateways.token:
            raise NotLoggedInError

    def renewal(self) -> Steps[None]:
        """A new token where the old one ends soon. What cannot be renewed lasts as long as it lasts."""
        now = time.monotonic()
        if now - self._asked_at < _ASK_AGAIN_SECONDS or not self._ends_soon():
            return
        self._asked_at = now
        try:
            answer = yield Call("users", "RefreshToken", pb.RefreshTokenRequest(token=self._gateways.token))
        except ClientError:
            return
        if answer.success:
            self._gateways.token = answer.token

    def another(self) -> bool:
        """Whether there is a newer one than the one that was refused."""
        try:
            token = self._kept()
        except ClientError:
            return False
        if not token or token == self._gateways.token:
            return False
        self._gateways.token = token
        return True

    def _ends_soon(self) -> bool:
        try:
            ends_at = read_token(self._gateways.token).expires_at
        except NotLoggedInError:
            return False
        return bool(ends_at) and ends_at - time.time() < _RENEW_SECONDS


def signed_in(tokens: LastingToken, work: Steps[_Result]) -> Steps[_Result]:
    """The same steps, each with a token that is good."""
    try:
        step: Step = next(work)
        while True:
            yield from tokens.renewal()
            try:
                answer = yield step
            except NotLoggedInError as error:
                if not tokens.another():
                    step = work.throw(error)
            except BaseException as error:  # noqa: BLE001  the work's own
                step = work.throw(error)
            else:
                step = work.send(answer)
    except StopIteration as end:
        result: _Result = end.value
        return result
    finally:
        work.close()


class Link:
    """In this thread; from several threads at once."""

    def __init__(self, gateway: GatewayChannel, tokens: LastingToken) -> None:
        self.gateway, self.tokens = gateway, tokens

    @property
    def token(self) -> str:
        return self.gateway.token

    def do(self, work: Steps[_Result]) -> _Result:
        self.tokens.check()
        return steps.drive(self.gateway, signed_in(self.tokens, work))


class ConnectionPlan:
    """How a connection is made: by whom, where to, and where its token is kept."""

    def __init__(
        self,
        endpoint: Endpoint,
        token: str,
        retry: RetryPolicy,
        first: str = "",
        kept_token: Callable[[], str] = lambda: "",
    ) -> None:
        self.endpoint, self.token, self.retry, self.first = endpoint, token, retry, first
        self.kept_token = kept_token

    def channel(self) -> GatewayChannel:
        return GatewayChannel(self.endpoint, token=self.token, retry=self.retry, first=self.first)

    def aio_channel(self) -> aio_channel.AioGatewayChannel:
        return aio_channel.AioGatewayChannel(
            self.endpoint, token=self.token, retry=self.retry, first=self.first
        )


class AioLink:
    """In an event loop: opened by the first that is done in it."""

    def __init__(self, plan: ConnectionPlan) -> None:
        self._plan = plan
        self._gateway: aio_channel.AioGatewayChannel | None = None
        self._tokens: LastingToken | None = None

    @property
    def token(self) -> str:
        return self._plan.token if self._gateway is None else self._gateway.token

    async def do(self, work: Steps[_Result]) -> _Result:
        if self._gateway is None or self._tokens is None:
            self._gateway = self._plan.aio_channel()
            self._tokens = LastingToken(self._gateway, self._plan.kept_token)
        self._tokens.check()
        return await aio_channel.drive(self._gateway, signed_in(self._tokens, work))

    async def close(self) -> None:
        if self._gateway is not None:
            await self._gateway.close()
