"""Reading a token without verifying it: whose it is and until when, and no more than that."""

from __future__ import annotations

import base64
import json

from hivemind.errors import NotLoggedInError
from hivemind.models import Identity


def read_token(token: str) -> Identity:
    """What a JWT says of its holder. Raises NotLoggedInError when it is not a JWT."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        name = claims.get("username") or claims["sub"]
        return Identity(username=str(name), expires_at=float(claims.get("exp", 0.0)))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotLoggedInError("the token is damaged") from error
