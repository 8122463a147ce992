"""Every error the pool tells its users, under one root. The class docstring is the default message.

This file knows no transport: `gateway/servicers/interceptors.py` holds the table from these to gRPC statuses.
"""

from __future__ import annotations

from nodepool.domain.limit_names import LimitName


class NodePoolError(Exception):
    """Something went wrong in the node pool."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class InvalidInputError(NodePoolError):
    """The request is not valid."""


class InvalidPackageError(InvalidInputError):
    """The package is not a ZIP that can be accepted."""


class TooLargeError(NodePoolError):
    """The upload is larger than this pool accepts."""


class UnauthenticatedError(NodePoolError):
    """Log in first: this call needs a valid token."""


class PermissionDeniedError(NodePoolError):
    """This is not yours."""


class NotFoundError(NodePoolError):
    """There is no such thing here."""


class AlreadyExistsError(NodePoolError):
    """That name is taken."""


class BrokerNotTrustedError(NodePoolError):
    """The broker's certificate is not one that is trusted here."""


class StaleAttemptError(NodePoolError):
    """This attempt is not the task's current one any more; nothing was changed."""


class OwnerOnlyError(StaleAttemptError):
    """The attempt is of somebody else's task, and its node takes its owner's only."""


class NotTrustedError(StaleAttemptError):
    """The attempt's task has secrets, and its node is trusted less than they ask for."""


class NotAbleError(StaleAttemptError):
    """The attempt's task needs what the program that asks for it cannot do."""


class StateConflictError(NodePoolError):
    """That cannot be done in the present state."""


class NotEnoughCptError(NodePoolError):
    """There is not enough CPT in the account."""


class RateLimitedError(NodePoolError):
    """Too many requests; wait a little and try again."""

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_seconds: float = 0.0,
        limit: LimitName = LimitName.OTHER,
    ) -> None:
        """`retry_after_seconds`: when the same may be answered; 0 where waiting alone does not help."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.limit = limit


class StorageBoundError(NodePoolError):
    """Your tasks keep as much as your account may keep here."""

    limit = LimitName.STORED_BYTES


class StorageFullError(NodePoolError):
    """The pool's storage is full; nothing was kept. Tell the operator, and try again later."""


class CorruptFileError(NodePoolError):
    """A stored file is damaged; tell the operator."""


class UnavailableError(NodePoolError):
    """A part of the pool cannot be reached just now; try again in a moment."""

    part = ""  # which, for operators


class BrokerUnavailableError(UnavailableError):
    """The pool's broker cannot be reached just now; try again in a moment."""

    part = "broker"


class DatabaseUnavailableError(UnavailableError):
    """The pool's database cannot be reached just now; try again in a moment."""

    part = "database"


class BrokerFullError(BrokerUnavailableError):
    """The pool's broker is full; try again in a moment."""


class InvalidTransitionError(NodePoolError):
    """That change of state is not in the table."""


class StalledError(NodePoolError):
    """Nothing came, or nothing was read, for too long; the call is ended."""


class BrokenOffError(NodePoolError):
    """The stream broke off before its end; nothing of it was kept."""
