"""Rules for user names and passwords."""

from __future__ import annotations

import re

from nodepool.errors import InvalidInputError

_USERNAME = re.compile(r"\w[\w.@+-]{2,63}")
MIN_PASSWORD_LENGTH = 8
# bcrypt reads no further than this; a longer password would be cut without a word.
MAX_PASSWORD_BYTES = 72


def check_username(username: str) -> str:
    if not _USERNAME.fullmatch(username):
        raise InvalidInputError(
            "username must be 3 to 64 letters, digits, '.', '_', '@', '+' or '-', "
            "and begin with a letter or digit"
        )
    return username


def check_password(password: str) -> str:
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InvalidInputError(f"password must have at least {MIN_PASSWORD_LENGTH} characters")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidInputError(f"password must have at most {MAX_PASSWORD_BYTES} bytes")
    if "\0" in password:
        raise InvalidInputError("password must not contain NUL characters")
    return password
