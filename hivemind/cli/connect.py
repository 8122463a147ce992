"""From the profile and the command line to an open client."""

from __future__ import annotations

import os

from hivemind.channel import Endpoint, RetryPolicy
from hivemind.cli.app import App
from hivemind.config import Connection
from hivemind.sdk import NodePoolClient


def connect(
    app: App,
    connection: Connection | None = None,
    *,
    retry: RetryPolicy | None = None,
    deadline_seconds: float = 30.0,
) -> NodePoolClient:
    """A client for the chosen gateway, with the token that is kept for it. Use it in `with`."""
    # gRPC's own log lines would stand between a script and the error it reads from stderr.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    chosen = connection or app.connection()
    endpoint = Endpoint(
        address=chosen.gateway,
        tls=chosen.tls,
        ca_file=chosen.ca_file,
        allow_insecure_plaintext=chosen.allow_insecure_plaintext,
    )
    return NodePoolClient(endpoint, token=chosen.token, retry=retry, deadline_seconds=deadline_seconds)
