"""Who is let in now: how often SQL is asked, how long an answer counts, and what ends a token."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.auth.account_status import FRESH_SECONDS, MAX_REMEMBERED, AccountStatuses
from gateway.auth.tokens import CallerIdentity
from nodepool.domain.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from nodepool.stores.sql.users import AccountStatus

ADA = CallerIdentity(7, "ada", "user", 2)
FINE = AccountStatus("ada", "user", blocked=False, generation=2)


class _Sql:
    """One user's row, how often it was read, and the clock."""

    def __init__(self, account: AccountStatus | None = FINE) -> None:
        self.account = account
        self.asked: list[int] = []
        self.now = 100.0
        self.away = False
        self.held: asyncio.Event | None = None
        self.reached: asyncio.Event | None = None

    async def ask(self, user_id: int) -> AccountStatus | None:
        self.asked.append(user_id)
        answer = self.account
        if self.held is not None and self.reached is not None:
            self.reached.set()
            await self.held.wait()
        if self.away:
            raise UnavailableError
        return answer

    def statuses(self) -> AccountStatuses:
        return AccountStatuses(self.ask, lambda: self.now)


def test_sql_is_asked_once_a_second_and_not_more() -> None:
    sql = _Sql()

    async def calls() -> None:
        statuses = sql.statuses()
        for _ in range(10):
            assert await statuses.admit(ADA) == ADA
            assert statuses.admitted(ADA) == ADA
        assert sql.asked == [7]
        sql.now += FRESH_SECONDS
        assert statuses.admitted(ADA) is None
        assert await statuses.admit(ADA) == ADA
        assert sql.asked == [7, 7]

    asyncio.run(calls())


def test_calls_of_one_moment_share_a_question() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        statuses = sql.statuses()
        waiting = [asyncio.create_task(statuses.admit(ADA)) for _ in range(20)]
        await sql.reached.wait()
        waiting[0].cancel()  # who goes away takes nobody along
        sql.held.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [ADA] * 19
        assert sql.asked == [7]

    asyncio.run(calls())


@pytest.mark.parametrize(
    ("account", "error", "words"),
    [
        (replace(FINE, blocked=True), PermissionDeniedError, "blocked; ask the pool's operator"),
        (replace(FINE, generation=3), UnauthenticatedError, "ended.*log in again"),
        (replace(FINE, generation=1), UnauthenticatedError, "log in again"),
        (replace(FINE, username="bob"), UnauthenticatedError, "does not exist any more"),
        (None, UnauthenticatedError, "does not exist any more"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    account: AccountStatus | None, error: type[Exception], words: str
) -> None:
    async def call() -> None:
        await _Sql(account).statuses().admit(ADA)

    with pytest.raises(error, match=words):
        asyncio.run(call())


def test_a_change_takes_effect_when_the_answer_is_a_second_old() -> None:
    sql = _Sql()

    async def calls() -> None:
        statuses = sql.statuses()
        await statuses.admit(ADA)
        sql.account = replace(FINE, blocked=True)
        sql.now += FRESH_SECONDS
        with pytest.raises(PermissionDeniedError):
            await statuses.admit(ADA)
        sql.account = FINE
        sql.now += FRESH_SECONDS
        assert await statuses.admit(ADA) == ADA

    asyncio.run(calls())


def test_an_answer_is_as_old_as_its_question() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        statuses = sql.statuses()
        waiting = asyncio.create_task(statuses.admit(ADA))
        await sql.reached.wait()
        sql.now += FRESH_SECONDS
        sql.held.set()
        await waiting
        assert statuses.admitted(ADA) is None

    asyncio.run(calls())


def test_a_newer_token_than_what_is_remembered_is_asked_for_at_once() -> None:
    sql = _Sql()

    async def calls() -> None:
        statuses = sql.statuses()
        await statuses.admit(ADA)
        sql.account = replace(FINE, generation=3)
        newer = CallerIdentity(7, "ada", "user", 3)
        assert await statuses.admit(newer) == newer
        # And with it the older one has ended, a moment before its second is over.
        with pytest.raises(UnauthenticatedError):
            statuses.admitted(ADA)

    asyncio.run(calls())


def test_a_newer_token_does_not_suffer_from_a_question_that_was_on_its_way() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        statuses = sql.statuses()
        old = asyncio.create_task(statuses.admit(ADA))
        await sql.reached.wait()
        sql.account = replace(FINE, generation=3)
        new = asyncio.create_task(statuses.admit(CallerIdentity(7, "ada", "user", 3)))
        await asyncio.sleep(0)
        sql.held.set()
        assert (await new).generation == 3
        assert await old == ADA

    asyncio.run(calls())


def test_the_role_is_that_of_now_and_not_the_tokens() -> None:
    async def call() -> CallerIdentity:
        return await _Sql(replace(FINE, role="admin")).statuses().admit(ADA)

    assert asyncio.run(call()).role == "admin"


def test_nobody_is_let_in_while_sql_is_away_and_all_are_afterwards() -> None:
    sql = _Sql()

    async def calls() -> None:
        statuses = sql.statuses()
        sql.away = True
        with pytest.raises(UnavailableError):
            await statuses.admit(ADA)
        sql.away = False
        assert await statuses.admit(ADA) == ADA

    asyncio.run(calls())


def test_no_more_users_are_remembered_than_the_bound() -> None:
    sql = _Sql()

    async def calls() -> None:
        statuses = sql.statuses()
        for user_id in range(MAX_REMEMBERED + 1):
            await statuses.admit(CallerIdentity(user_id, "ada", "user", 2))
        assert statuses.admitted(CallerIdentity(0, "ada", "user", 2)) is None
        assert statuses.admitted(CallerIdentity(1, "ada", "user", 2)) is not None
        statuses.forget(1)
        assert statuses.admitted(CallerIdentity(1, "ada", "user", 2)) is None

    asyncio.run(calls())
