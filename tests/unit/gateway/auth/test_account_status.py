"""Who is let in now: how often SQL is asked, how long an answer counts, and what ends a token."""

from __future__ import annotations

import asyncio

import pytest

from gateway.auth.account_status import FRESH_SECONDS, MAX_REMEMBERED, AccountStatuses
from gateway.auth.tokens import CallerIdentity
from nodepool.domain.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from nodepool.stores.sql.users import AccountStatus

ADA = CallerIdentity(7, "ada", "user", 2)
FINE = AccountStatus("ada", "user", blocked=False, generation=2)


class _Sql:
    """One user's row, how often it was read, and the clock."""

    def __init__(self, standing: AccountStatus | None = FINE) -> None:
        self.standing = standing
        self.asked: list[int] = []
        self.now = 100.0
        self.away = False
        self.held: asyncio.Event | None = None
        self.reached: asyncio.Event | None = None

    async def ask(self, user_id: int) -> AccountStatus | None:
        self.asked.append(user_id)
        answer = self.standing
        if self.held is not None and self.reached is not None:
            self.reached.set()
            await self.held.wait()
        if self.away:
            raise UnavailableError
        return answer

    def standings(self) -> AccountStatuses:
        return AccountStatuses(self.ask, lambda: self.now)


def test_sql_is_asked_once_a_second_and_not_more() -> None:
    sql = _Sql()

    async def calls() -> None:
        standings = sql.standings()
        for _ in range(10):
            assert await standings.admit(ADA) == ADA
            assert standings.admitted(ADA) == ADA
        assert sql.asked == [7]
        sql.now += FRESH_SECONDS
        assert standings.admitted(ADA) is None
        assert await standings.admit(ADA) == ADA
        assert sql.asked == [7, 7]

    asyncio.run(calls())


def test_calls_of_one_moment_share_a_question() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        standings = sql.standings()
        waiting = [asyncio.create_task(standings.admit(ADA)) for _ in range(20)]
        await sql.reached.wait()
        waiting[0].cancel()  # who goes away takes nobody along
        sql.held.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [ADA] * 19
        assert sql.asked == [7]

    asyncio.run(calls())


@pytest.mark.parametrize(
    ("standing", "error", "words"),
    [
        (FINE._replace(blocked=True), PermissionDeniedError, "blocked; ask the pool's operator"),
        (FINE._replace(generation=3), UnauthenticatedError, "ended.*log in again"),
        (FINE._replace(generation=1), UnauthenticatedError, "log in again"),
        (FINE._replace(username="bob"), UnauthenticatedError, "does not exist any more"),
        (None, UnauthenticatedError, "does not exist any more"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    standing: AccountStatus | None, error: type[Exception], words: str
) -> None:
    async def call() -> None:
        await _Sql(standing).standings().admit(ADA)

    with pytest.raises(error, match=words):
        asyncio.run(call())


def test_a_change_takes_effect_when_the_answer_is_a_second_old() -> None:
    sql = _Sql()

    async def calls() -> None:
        standings = sql.standings()
        await standings.admit(ADA)
        sql.standing = FINE._replace(blocked=True)
        sql.now += FRESH_SECONDS
        with pytest.raises(PermissionDeniedError):
            await standings.admit(ADA)
        sql.standing = FINE
        sql.now += FRESH_SECONDS
        assert await standings.admit(ADA) == ADA

    asyncio.run(calls())


def test_an_answer_is_as_old_as_its_question() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        standings = sql.standings()
        waiting = asyncio.create_task(standings.admit(ADA))
        await sql.reached.wait()
        sql.now += FRESH_SECONDS
        sql.held.set()
        await waiting
        assert standings.admitted(ADA) is None

    asyncio.run(calls())


def test_a_newer_token_than_what_is_remembered_is_asked_for_at_once() -> None:
    sql = _Sql()

    async def calls() -> None:
        standings = sql.standings()
        await standings.admit(ADA)
        sql.standing = FINE._replace(generation=3)
        newer = CallerIdentity(7, "ada", "user", 3)
        assert await standings.admit(newer) == newer
        # And with it the older one has ended, a moment before its second is over.
        with pytest.raises(UnauthenticatedError):
            standings.admitted(ADA)

    asyncio.run(calls())


def test_a_newer_token_does_not_suffer_from_a_question_that_was_on_its_way() -> None:
    sql = _Sql()

    async def calls() -> None:
        sql.held, sql.reached = asyncio.Event(), asyncio.Event()
        standings = sql.standings()
        old = asyncio.create_task(standings.admit(ADA))
        await sql.reached.wait()
        sql.standing = FINE._replace(generation=3)
        new = asyncio.create_task(standings.admit(CallerIdentity(7, "ada", "user", 3)))
        await asyncio.sleep(0)
        sql.held.set()
        assert (await new).generation == 3
        assert await old == ADA

    asyncio.run(calls())


def test_the_role_is_that_of_now_and_not_the_tokens() -> None:
    async def call() -> CallerIdentity:
        return await _Sql(FINE._replace(role="admin")).standings().admit(ADA)

    assert asyncio.run(call()).role == "admin"


def test_nobody_is_let_in_while_sql_is_away_and_all_are_afterwards() -> None:
    sql = _Sql()

    async def calls() -> None:
        standings = sql.standings()
        sql.away = True
        with pytest.raises(UnavailableError):
            await standings.admit(ADA)
        sql.away = False
        assert await standings.admit(ADA) == ADA

    asyncio.run(calls())


def test_no_more_users_are_remembered_than_the_bound() -> None:
    sql = _Sql()

    async def calls() -> None:
        standings = sql.standings()
        for user_id in range(MAX_REMEMBERED + 1):
            await standings.admit(CallerIdentity(user_id, "ada", "user", 2))
        assert standings.admitted(CallerIdentity(0, "ada", "user", 2)) is None
        assert standings.admitted(CallerIdentity(1, "ada", "user", 2)) is not None
        standings.forget(1)
        assert standings.admitted(CallerIdentity(1, "ada", "user", 2)) is None

    asyncio.run(calls())
