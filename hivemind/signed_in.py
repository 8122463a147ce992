"""What every part of `NodePoolClient` is made of: the line to the pool, and the token on it."""

from __future__ import annotations

from hivemind.channel import GatewayChannel
from hivemind.errors import NotLoggedInError


class SignedIn:
    _gateway: GatewayChannel

    def _need_token(self) -> str:
        if not self._gateway.token:
            raise NotLoggedInError
        return self._gateway.token
