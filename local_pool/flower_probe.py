"""Whether Flower already shows what runs: asked over its own HTTP interface, as a person's browser would."""

from __future__ import annotations

import base64
import json
from collections.abc import Set
from http.client import HTTPConnection, HTTPException

CALL_SECONDS = 2.0


class FlowerProbe:
    """Flower on a loopback port. `login` is USER:PASSWORD."""

    def __init__(self, port: int, login: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def answers(self) -> bool:
        """Whether it serves at all, whatever it shows."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=CALL_SECONDS)
        try:
            connection.request("GET", "/healthcheck", headers=self._headers)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def shows(self, names: Set[str], prefix: str) -> bool:
        """Whether all these workers are there with their queues, and one whose name begins with `prefix`.

        False too while it does not answer, or does not answer what it should.
        """
        connection = HTTPConnection("127.0.0.1", self._port, timeout=CALL_SECONDS)
        try:
            connection.request("GET", "/api/workers", headers=self._headers)
            answer = connection.getresponse()
            workers = json.load(answer) if answer.status == 200 else {}
        except (OSError, HTTPException, ValueError):
            return False
        finally:
            connection.close()
        known = {name for name, worker in workers.items() if worker.get("active_queues")}
        return names <= known and any(name.startswith(prefix) for name in known)
