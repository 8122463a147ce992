"""How a webhook's receiver knows the pool: the headers of Standard Webhooks (standardwebhooks.com). Pure.

Over the id, the time and the body goes an HMAC-SHA256 with a key that the pool makes and tells once. While a
new key is taken up there are two signatures, one for each.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256

from nodepool.domain.errors import InvalidInputError

PREFIX = "whsec_"
KEY_BYTES = 32
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_CODE_DIGITS = 8


def key_text(random_bytes: bytes) -> str:
    """As a user is told it, and libraries for it take it."""
    return PREFIX + base64.b64encode(random_bytes).decode()


def signed_headers(keys: Sequence[str], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Of one try: a later one has another time, and the same id."""
    return {
        ID: event_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: " ".join(_signature(key, event_id, timestamp, body) for key in keys),
    }


def _signature(key: str, event_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_bytes_of(key), signed, sha256)).decode()


def code_of(key: str) -> str:
    """What is mailed to an address to confirm it: it follows from the target's key, and is kept nowhere."""
    number = int.from_bytes(hmac.digest(_bytes_of(key), b"confirms this address", sha256)[:8])
    return f"{number % 10**_CODE_DIGITS:0{_CODE_DIGITS}}"


def is_code(key: str, told: str) -> bool:
    return hmac.compare_digest(code_of(key).encode(), told.strip().encode())


def _bytes_of(key: str) -> bytes:
    try:
        return base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise InvalidInputError("that is no signing key") from None
