"""Who is calling: the token of a call, from its metadata or its message, and who that is now."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from gateway.auth.access import ADMIN_ROLE, NODE_WORDS, Access
from gateway.auth.account_status import AccountStatuses
from gateway.auth.registered_tokens import RegisteredTokens
from gateway.auth.tokens import CallerIdentity, ExpiredTokenError, Tokens
from nodepool.domain import errors
from nodepool.domain.client_address import ClientAddress

_BEARER = "bearer "
_LOG_IN = "this call needs a token: log in first"
_LOG_IN_OR_ALLOW = f"{_LOG_IN} (the pool's operator can allow it without one: ALLOW_ANONYMOUS_READS)"

identity_of_call: ContextVar[CallerIdentity | None] = ContextVar("identity", default=None)
client_of_call: ContextVar[ClientAddress | None] = ContextVar("client", default=None)
_NOBODY = ClientAddress("", "")


def current_identity() -> CallerIdentity:
    """Who is calling; UnauthenticatedError where an anonymous caller was let in."""
    identity = identity_of_call.get()
    if identity is None:
        raise errors.UnauthenticatedError
    return identity


def current_client() -> ClientAddress:
    """From where the call comes, also where it came through a balancer."""
    return client_of_call.get() or _NOBODY


def current_identity_or_none() -> CallerIdentity | None:
    """Who is calling; None for an anonymous caller of a PUBLIC or ANONYMOUS_READ call."""
    return identity_of_call.get()


def token_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The token that a call's metadata carries; "" where there is none."""
    found = ""
    for key, value in metadata or ():
        if key != "authorization":
            continue
        text = value if isinstance(value, str) else value.decode("ascii", "replace")
        if text[: len(_BEARER)].lower() != _BEARER:
            raise errors.UnauthenticatedError(
                "the authorization metadata must be 'Bearer ' and the token: log in again"
            )
        token = text[len(_BEARER) :].strip()
        if not token:
            raise errors.UnauthenticatedError("the token in the metadata is empty: log in again")
        check_same(found, token)
        found = token
    return found


def check_same(first: str, second: str) -> None:
    """Raises UnauthenticatedError for two tokens that differ."""
    if first and second and first != second:
        raise errors.UnauthenticatedError(
            "two different tokens came with this call: log in again and send one"
        )


def whose_work() -> Hashable:
    """By what a call's work is counted: its account, or where nobody is known its address."""
    identity = identity_of_call.get()
    return identity.user_id if identity is not None else ("address", current_client().counted)


@dataclass(frozen=True, slots=True)
class Callers:
    tokens: Tokens
    standings: AccountStatuses
    registered: RegisteredTokens
    allow_anonymous_reads: bool

    async def identify(self, token: str, required: Access, method: str) -> CallerIdentity:
        """Who the token names, with their status now, where they may make this call."""
        try:
            named = self.tokens.read(token)
        except ExpiredTokenError as error:
            if method not in NODE_WORDS:
                raise
            return await self._of_node(error)
        identity = self.standings.admitted(named) or await self.standings.admit(named)
        if required is Access.ADMIN and identity.role != ADMIN_ROLE:
            raise errors.PermissionDeniedError("only the pool's operator may do this")
        return identity

    async def _of_node(self, expired: ExpiredTokenError) -> CallerIdentity:
        """Workers log in once: their token counts for the words of the node that is registered with it."""
        identity = await self.standings.admit(expired.identity)
        node_id = await self.registered.node_of(identity)
        if not node_id:
            raise expired
        return replace(identity, only_node=node_id)

    def admit_anonymous(self, required: Access) -> None:
        """Raises UnauthenticatedError where the call may not be made without a token."""
        if required is not Access.ANONYMOUS_READ:
            raise errors.UnauthenticatedError(_LOG_IN)
        if not self.allow_anonymous_reads:
            raise errors.UnauthenticatedError(_LOG_IN_OR_ALLOW)
