"""What other use cases ask of a user's account."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from nodepool.domain.errors import UnauthenticatedError
from nodepool.stores.sql.tables import users

_SCORE = select(users.c.credit_score).where(users.c.id == bindparam("user_id"))


def credit_score(connection: Connection, user_id: int) -> int:
    """Raises UnauthenticatedError when the user is gone (a token of a database that was replaced)."""
    score: int | None = connection.execute(_SCORE, {"user_id": user_id}).scalar()
    if score is None:
        raise UnauthenticatedError("this account does not exist any more; register or log in again")
    return score
