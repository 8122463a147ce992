"""From the profile and the command line to an open client."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hivemind.channel import Endpoint, RetryPolicy
from hivemind.cli.app import App
from hivemind.config import Connection
from hivemind.errors import UnreachableError
from hivemind.remembered import recall, remember, remembered_path
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
    path, began = remembered_path(app.environment), recall_first(app, chosen.gateway)
    return _RememberingClient(
        endpoint,
        token=chosen.token,
        retry=retry or RetryPolicy(patience_seconds=chosen.retry_seconds),
        deadline_seconds=deadline_seconds,
        on_wait=lambda error, seconds: app.notice(f"{error}; trying again for {seconds:.0f} s"),
        first_gateway=began,
    ).remembering(path, chosen.gateway, began)


def recall_first(app: App, gateway: str) -> str:
    """The address to begin with, where there is more than one."""
    addresses = gateway.split(",")
    known = recall(remembered_path(app.environment), gateway, time.time()) if len(addresses) > 1 else ""
    return known if known in addresses else random.choice(addresses)  # noqa: S311 - no secret


class _RememberingClient(NodePoolClient):
    """Leaves a word for the next command, where the first gateway that it asked was away."""

    _place: tuple[Path, str, str] | None = None

    def remembering(self, path: Path, gateway: str, began: str) -> _RememberingClient:
        self._place = (path, gateway, began)
        return self

    def close(self) -> None:
        works = self.working_gateway
        if self._place is not None and works and works != self._place[2]:
            remember(self._place[0], self._place[1], works, time.time())
        super().close()


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
