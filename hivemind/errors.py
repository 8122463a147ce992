"""What can go wrong for a user of the pool, and the exit code that each kind has in scripts.

Knows neither gRPC nor click: `channel.py` has the table from statuses to these, the command
prints them.
"""

from __future__ import annotations

from enum import IntEnum

from nodepool.domain.errors import NodePoolError


class ExitCode(IntEnum):
    """The exit codes of the `hivemind` command; part of its interface, so they never change."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    REFUSED = 6
    NOT_YET = 7
    TIME_IS_OVER = 124
    INTERRUPTED = 130


EXIT_CODE_MEANINGS = {
    ExitCode.OK: "it worked",
    ExitCode.FAILURE: "it failed",
    ExitCode.USAGE: "the command line or the profile is wrong",
    ExitCode.NOT_ALLOWED: "not logged in, or not yours",
    ExitCode.NOT_FOUND: "there is no such task, node, user or file",
    ExitCode.UNREACHABLE: "the pool cannot be reached, or did not answer in time",
    ExitCode.REFUSED: "the pool refused: bad input, a limit, a conflict, not enough CPT",
    ExitCode.NOT_YET: "not yet: the task has not ended",
    ExitCode.TIME_IS_OVER: "`wait`: not all had ended when --timeout was over",
    ExitCode.INTERRUPTED: "interrupted, or the task that was followed or waited for was stopped",
}


class ClientError(NodePoolError):
    """The request failed."""

    code = "failure"
    exit_code = ExitCode.FAILURE
    default_hint = ""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.default_hint if hint is None else hint
        # An earlier try of the same call got no answer, and may have done its work all the same.
        self.after_unanswered = False


class ConfigError(ClientError):
    """The profile or the environment is not usable."""

    code = "config"
    exit_code = ExitCode.USAGE


class NotLoggedInError(ClientError):
    """You are not logged in."""

    code = "not_logged_in"
    exit_code = ExitCode.NOT_ALLOWED
    default_hint = "log in with `hivemind login USERNAME`"


class NotAllowedError(ClientError):
    """This is not yours."""

    code = "not_allowed"
    exit_code = ExitCode.NOT_ALLOWED


class MissingError(ClientError):
    """There is no such thing in the pool."""

    code = "not_found"
    exit_code = ExitCode.NOT_FOUND


class UnreachableError(ClientError):
    """The pool cannot be reached."""

    code = "unreachable"
    exit_code = ExitCode.UNREACHABLE
    default_hint = "is the gateway up, and is its address right? See --gateway and HIVEMIND_GATEWAY"

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        # The same may be answered in a moment.
        self.passing = True
        # No gateway has had this try.
        self.never_sent = False
        # Another gateway has not been tried yet.
        self.try_at_once = False


class TimedOutError(UnreachableError):
    """The pool did not answer in time."""

    code = "timed_out"
    default_hint = "try again; if it goes on, ask the pool's operator"


class RefusedError(ClientError):
    """The pool does not accept this request."""

    code = "refused"
    exit_code = ExitCode.REFUSED


class InvalidInputError(RefusedError, ValueError):
    """The request is not valid; nothing was sent."""

    code = "invalid_input"


class ExistsError(RefusedError):
    """That name is taken."""

    code = "already_exists"


class LimitError(RefusedError):
    """A limit of the pool is reached."""

    code = "limit"

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, retry_after_seconds: float = 0.0
    ) -> None:
        """`retry_after_seconds`: when the same may be answered; 0 where the pool does not say."""
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class ConflictError(RefusedError):
    """That cannot be done in the present state."""

    code = "conflict"


class PlainTextError(RefusedError):
    """Plain text to another machine would show the token and the code to everyone on the way."""

    code = "plain_text"
    default_hint = (
        "use --tls, or --allow-insecure-plaintext (HIVEMIND_ALLOW_INSECURE_PLAINTEXT=1) to do it all the same"
    )


class UnsupportedError(ClientError):
    """This pool does not offer that."""

    code = "unsupported"


class NotYetError(ClientError):
    """The task has not ended yet."""

    code = "not_yet"
    exit_code = ExitCode.NOT_YET


class BadResultError(ClientError):
    """The result is not a ZIP that can be unpacked safely."""

    code = "bad_result"
