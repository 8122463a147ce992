"""Secrets: set, listed, removed, and given to a run when its node claims it. Values are told to nobody else.

Use cases, with no gRPC in them. Names and sizes: `nodepool.domain.tasks.run_secrets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import CorruptFileError, NotFoundError, RateLimitedError, StateConflictError
from nodepool.domain.limit_names import LimitName
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.domain.tasks.run_secrets import (
    MAX_BYTES_OF_TASK,
    MAX_OF_USER,
    check_are_set,
    check_secret_name,
    check_secret_value,
)
from nodepool.stores.sql import user_secrets as secret_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.user_secrets import StoredSecret

_NO_KEY = (
    "this pool keeps no secrets: its operator has set no STORAGE_KEY, and a key that the pool makes itself "
    "lies beside what it opens"
)


class SecretsNotGivenError(Exception):
    """A task cannot be given its secrets, and fails for that."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ShownSecret:
    name: str
    set_at: float
    is_readable: bool  # its key is the pool's present one


def put(gateway: Gateway, owner: CallerIdentity, name: str, value: str) -> bool:
    """Whether one of this name was there. Raises InvalidInputError, StateConflictError, RateLimitedError."""
    check_secret_name(name)
    size = check_secret_value(value)
    if not gateway.secret_box.may_seal:
        raise StateConflictError(_NO_KEY)
    sealed = gateway.secret_box.seal(owner.user_id, name, value)
    secret = StoredSecret(name, sealed, size, gateway.clock())

    def work(connection: Connection) -> bool:
        secret_store.lock(connection, owner.user_id)
        sizes = secret_store.sizes(connection, owner.user_id)
        if name not in sizes and len(sizes) >= MAX_OF_USER:
            raise RateLimitedError(
                f"you have {len(sizes)} secrets, as many as a user may have: remove one with "
                "`hivemind secret rm NAME`",
                limit=LimitName.SECRETS,
            )
        return secret_store.put(connection, owner.user_id, secret)

    return gateway.database.write(work)


def list_own(gateway: Gateway, owner: CallerIdentity) -> list[ShownSecret]:
    stored = gateway.database.read(lambda c: secret_store.of_user(c, owner.user_id))
    opens = gateway.secret_box.opens
    return [ShownSecret(it.name, it.set_at, opens(owner.user_id, it.name, it.sealed)) for it in stored]


def remove(gateway: Gateway, owner: CallerIdentity, name: str) -> int:
    """How many tasks that have not begun were to be given it. Raises NotFoundError."""
    check_secret_name(name)

    def work(connection: Connection) -> int:
        if not secret_store.remove(connection, owner.user_id, name):
            raise NotFoundError(f"you have no secret {name}")
        return secret_store.count_waiting(connection, owner.user_id, name)

    return gateway.database.write(work)


def check_wanted(connection: Connection, owner_id: int, secrets: str) -> None:
    """`secrets` as a task has them. Raises NotFoundError and InvalidInputError."""
    if secrets:
        check_are_set(mapping_from_json(secrets).values(), secret_store.sizes(connection, owner_id))


def read_wanted(connection: Connection, owner_id: int, secrets: str) -> Mapping[str, StoredSecret]:
    """What there is of them now, still sealed."""
    if not secrets:
        return {}
    return secret_store.of_names(connection, owner_id, mapping_from_json(secrets).values())


def opened(
    gateway: Gateway, owner_id: int, secrets: str, stored: Mapping[str, StoredSecret]
) -> dict[str, str]:
    """Values by the variables that they become. Raises SecretsNotGivenError."""
    wanted = mapping_from_json(secrets)
    size = 0
    values: dict[str, str] = {}
    for variable, name in wanted.items():
        secret = stored.get(name)
        if secret is None:
            raise SecretsNotGivenError(because(ReasonCode.SECRET_GONE, name=name))
        size += secret.value_bytes
        try:
            values[variable] = gateway.secret_box.open(owner_id, name, secret.sealed)
        except CorruptFileError:
            raise SecretsNotGivenError(because(ReasonCode.SECRET_UNREADABLE, name=name)) from None
    if size > MAX_BYTES_OF_TASK:
        raise SecretsNotGivenError(
            because(ReasonCode.SECRETS_TOO_LARGE, have_bytes=size, limit_bytes=MAX_BYTES_OF_TASK)
        )
    return values
