"""What `NodePoolClient` can do with secrets: a part of it, and nothing by itself.

No call tells a value: a secret that is not known any more is set again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hivemind.errors import MissingError, RefusedError, UnsupportedError
from hivemind.models import finite
from hivemind.signed_in import SignedIn
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.run_secrets import check_secret_name, check_secret_value
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInfo:
    """`set_at` is Unix seconds. An unreadable one has to be set again: the pool has another key now."""

    name: str
    set_at: float
    unreadable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRemoved:
    """`waiting_tasks` have not begun, were to be given it, and will fail (1,000: or more)."""

    message: str
    waiting_tasks: int


class SecretMethods(SignedIn):
    def set_secret(self, name: str, value: str) -> str:
        """Keep a secret in the pool, encrypted, or give it another value; answers the pool's message.

        Tasks name it (`TaskNeeds.secrets`), and what runs of them finds the value in its environment.
        """
        self._need_token()
        with _allowed():
            check_secret_name(name)
            check_secret_value(value)
            request = pb.SetSecretRequest(name=name, value=value)
            answer = self._gateway.call(self._gateway.users.SetSecret, request)
        return answer.message

    def secrets(self) -> tuple[SecretInfo, ...]:
        """Your secrets by their names, without their values."""
        self._need_token()
        with _allowed():
            answer = self._gateway.call(self._gateway.users.ListSecrets, pb.ListSecretsRequest())
        return tuple(
            SecretInfo(name=it.name, set_at=finite(it.set_at), unreadable=it.unreadable)
            for it in answer.secrets
        )

    def remove_secret(self, name: str) -> SecretRemoved:
        """Tasks that name it and have not begun will fail. Raises MissingError where there is none."""
        self._need_token()
        request = pb.RemoveSecretRequest(name=name)
        try:
            with _allowed():
                check_secret_name(name)
                answer = self._gateway.call(self._gateway.users.RemoveSecret, request)
        except MissingError as error:
            if not error.after_unanswered:
                raise
            return SecretRemoved(message=f"secret {name} is removed", waiting_tasks=0)
        return SecretRemoved(message=answer.message, waiting_tasks=answer.waiting_tasks)


@contextmanager
def _allowed() -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error
    except UnsupportedError:
        raise UnsupportedError("this pool is too old to keep secrets") from None
