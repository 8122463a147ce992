"""What is true of a caller now, whatever the token says: blocked or not, role, generation of tokens.

Every gateway asks SQL at most once a second for each user who calls, on the bounded pool of threads, and
so a change takes effect within that second. Everything but the question itself belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gateway.auth.tokens import CallerIdentity
from nodepool.domain.errors import PermissionDeniedError, UnauthenticatedError
from nodepool.stores.sql.users import AccountStatus

FRESH_SECONDS = 1.0
MAX_REMEMBERED = 8192
BLOCKED = "this account is blocked; ask the pool's operator"
ENDED = "this token has ended, because the password was changed: log in again"
GONE = "this user does not exist any more: register or log in again"
_NEVER = float("-inf")

Ask = Callable[[int], Awaitable[AccountStatus | None]]


class AccountStatuses:
    """Who is let in. `ask` reads a user's account status from SQL."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[int, tuple[AccountStatus | None, float]] = OrderedDict()
        self._asking: dict[int, asyncio.Task[AccountStatus | None]] = {}

    def admitted(self, identity: CallerIdentity) -> CallerIdentity | None:
        """The caller's status now, where that is known; None where admit() must ask.

        Raises UnauthenticatedError for a token that has ended, PermissionDeniedError for a blocked user.
        """
        account, asked_at = self._known.get(identity.user_id, (None, _NEVER))
        if self._clock() - asked_at >= FRESH_SECONDS:
            return None
        if account is not None and account.generation < identity.generation:
            return None  # a newer token than what was read
        return _judged(identity, account)

    async def admit(self, identity: CallerIdentity) -> CallerIdentity:
        """The same, asked for where it is not known. UnavailableError where SQL is away."""
        admitted = self.admitted(identity)
        if admitted is not None:
            return admitted
        account = await self._fetch(identity.user_id)
        if account is not None and account.generation < identity.generation:
            # The question may have been on its way already when the token was made.
            account = await self._fetch(identity.user_id)
        return _judged(identity, account)

    def forget(self, user_id: int) -> None:
        """Something of the user has changed in this process. From any thread."""
        self._known.pop(user_id, None)

    async def _fetch(self, user_id: int) -> AccountStatus | None:
        """Callers who want the same at the same moment share one question."""
        asking = self._asking.get(user_id)
        if asking is None:
            asking = self._asking[user_id] = asyncio.create_task(self._asked(user_id))
            asking.add_done_callback(lambda done: self._answered(user_id, done))
        return await asyncio.shield(asking)

    async def _asked(self, user_id: int) -> AccountStatus | None:
        # As old as the question, not as the answer.
        asked_at = self._clock()
        account = await self._ask(user_id)
        self._known[user_id] = (account, asked_at)
        self._known.move_to_end(user_id)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return account

    def _answered(self, user_id: int, done: asyncio.Task[AccountStatus | None]) -> None:
        self._asking.pop(user_id, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may have


def _judged(identity: CallerIdentity, account: AccountStatus | None) -> CallerIdentity:
    # Another name: a token for the database that was here before.
    if account is None or account.username != identity.username:
        raise UnauthenticatedError(GONE)
    if account.blocked:
        raise PermissionDeniedError(BLOCKED)
    if account.generation != identity.generation:
        raise UnauthenticatedError(ENDED)
    return identity if account.role == identity.role else replace(identity, role=account.role)
