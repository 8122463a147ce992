"""Tokens: who is calling, signed. JWT with HS256; the claims are sub (user name), uid, role, gen, iat, exp.

`gen` is the account's generation of tokens: a change of password begins a new one, and tokens of an
earlier one have ended. It is a number and not a time, so that gateways whose clocks differ agree. This
file knows no gRPC and no store but the file of the secret that the pool makes for itself.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jwt

from nodepool.domain.errors import UnauthenticatedError
from nodepool.settings import MIN_SECRET_LENGTH, Settings

ALGORITHM = "HS256"
SECRET_FILE_NAME = "jwt.secret"  # noqa: S105 - a file's name
SECRET_BYTES = 48
MAX_TOKEN_LENGTH = 4096
MAX_CACHED_TOKENS = 8192
SECONDS_PER_HOUR = 3600
MAX_NUMBER = 2**63 - 1

_CLAIMS = ["sub", "uid", "role", "iat", "exp"]


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """Who is calling, as the token says."""

    user_id: int
    username: str
    role: str
    generation: int = 0
    token_sha256: str = field(default="", compare=False)  # hex, of the token that says so
    # The one node that may be spoken for: the token has expired, and that node is registered with it.
    only_node: str = ""


class ExpiredTokenError(UnauthenticatedError):
    """A token of ours whose time is over."""

    def __init__(self, identity: CallerIdentity) -> None:
        super().__init__("the token has expired: log in again")
        self.identity = identity


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and the Unix second at which it expires."""

    token: str
    expires_at: int


class Tokens:
    """Issues and reads tokens. read() belongs to one thread, the event loop's; issue() to any."""

    def __init__(self, secret: str, lifetime_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        # A client sends the same token with every call: what was checked once needs no HMAC again.
        self._read: OrderedDict[str, tuple[CallerIdentity, float]] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Tokens:
        return cls(load_secret(settings), settings.token_expiration_hours * SECONDS_PER_HOUR, clock)

    def issue(self, identity: CallerIdentity) -> IssuedToken:
        now = self._clock()
        expires_at = int(now + self._lifetime_seconds)
        claims = {
            "sub": identity.username,
            "uid": identity.user_id,
            "role": identity.role,
            "gen": identity.generation,
            "iat": int(now),
            "exp": expires_at,
        }
        return IssuedToken(jwt.encode(claims, self._secret, algorithm=ALGORITHM), expires_at)

    def read(self, token: str) -> CallerIdentity:
        """Who it names. ExpiredTokenError where its time is over, UnauthenticatedError for none of ours."""
        known = self._read.get(token)
        if known is None:
            known = self._decode(token)
            self._read[token] = known
            if len(self._read) > MAX_CACHED_TOKENS:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(token)
        identity, expires_at = known
        if self._clock() >= expires_at:
            del self._read[token]
            raise ExpiredTokenError(identity)
        return identity

    def _decode(self, token: str) -> tuple[CallerIdentity, float]:
        refused = UnauthenticatedError("the token is not valid here: log in again")
        if len(token) > MAX_TOKEN_LENGTH:
            raise refused
        try:
            # Expiry is checked at every use, with the clock given here.
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
        # What is in it is read before its signature is: a stranger may write anything there.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
            raise refused from None
        user_id, username, role, expires_at = claims["uid"], claims["sub"], claims["role"], claims["exp"]
        # Tokens of the pool's first version have none.
        generation = claims.get("gen", 0)
        # A bool is an int, and SQL's integers end at 64 bits.
        if not _is_number(user_id, 1) or not _is_number(expires_at) or not _is_number(generation):
            raise refused
        if not isinstance(role, str) or not isinstance(username, str):
            raise refused
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        return CallerIdentity(user_id, username, role, generation, sha256), expires_at

    def fingerprint(self, text: str) -> str:
        """A keyed hash: the same for the same text, and worth nothing without the secret."""
        return hmac.new(self._secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _is_number(claim: object, least: int = 0) -> bool:
    return type(claim) is int and least <= claim <= MAX_NUMBER


def load_secret(settings: Settings) -> str:
    """The setting's secret, or the one kept with the pool's storage, made where there is none."""
    if settings.jwt_secret_key:
        return settings.jwt_secret_key
    path = settings.task_storage_path / SECRET_FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _make_secret(path)
    secret = path.read_text(encoding="ascii").strip()
    if len(secret) < MIN_SECRET_LENGTH:
        raise ValueError(f"{path} holds no usable secret: delete it and log in again, or set JWT_SECRET_KEY")
    return secret


def _make_secret(path: Path) -> None:
    """A whole file or none: a second gateway that starts now finds the first one's."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
