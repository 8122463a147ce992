"""From the profile and the command line to an open client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hivemind.channel import Endpoint, RetryPolicy
from hivemind.cli.app import App
from hivemind.config import Connection
from hivemind.errors import UnreachableError
from hivemind.sdk import NodePoolClient


def connect(
    app: App,
    connection: Connection | None = None,
    *,
    retry: RetryPolicy | None = None,
    deadline_seconds: float = 30.0,
) -> NodePoolClient:
    """A client for the chosen gateway, with the token that is kept for it. Use it in `with`."""
    chosen = connection or app.connection()
    endpoint = Endpoint(
        address=chosen.gateway,
        tls=chosen.tls,
        ca_file=chosen.ca_file,
        allow_insecure_plaintext=chosen.allow_insecure_plaintext,
    )
    return NodePoolClient(
        endpoint,
        token=chosen.token,
        retry=retry or RetryPolicy(patience_seconds=chosen.retry_seconds),
        deadline_seconds=deadline_seconds,
        on_wait=lambda error, seconds: app.notice(f"{error}; trying again for {seconds:.0f} s"),
    )


@contextmanager
def names_it(app: App, words: str) -> Iterator[None]:
    """Whoever leaves before the answer, or gets none, is told by which id it can be found and sent again."""
    try:
        yield
    except KeyboardInterrupt:
        app.notice(f"it may have arrived: {words}")
        raise
    except UnreachableError as error:
        error.hint = f"it may have arrived: {words}"
        raise
