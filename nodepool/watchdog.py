"""Tells whoever started this process that it works, in the words of systemd's sd_notify.

`hivemind up` and systemd (Type=notify, WatchdogSec) listen; where nobody does, nothing is sent. What working
means is for the process to say: it calls `alive` only from where it would not get to if it hung.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, MutableMapping

VARIABLE = "NOTIFY_SOCKET"
READY, ALIVE, STOPPING = b"READY=1", b"WATCHDOG=1", b"STOPPING=1"
#: How often a process says that it works.
PERIOD_SECONDS = 1.0


class Watchdog:
    """Thread-safe. Never waits, and never fails."""

    def __init__(self, address: str) -> None:
        """Empty: nobody listens."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def of(cls, environment: Mapping[str, str] | MutableMapping[str, str]) -> Watchdog:
        """Takes the address away, so that no program that this one starts speaks for it."""
        address = environment.get(VARIABLE, "")
        if isinstance(environment, MutableMapping):
            environment.pop(VARIABLE, None)
        return cls(address)

    def ready(self) -> None:
        """From now on silence means that it hangs. Whoever is slow to start says this late."""
        self._send(READY)

    def alive(self) -> None:
        self._send(ALIVE)

    def stopping(self) -> None:
        """Silence means nothing any more."""
        self._send(STOPPING)

    def close(self) -> None:
        self._socket.close()

    def _send(self, words: bytes) -> None:
        if self._address:
            try:
                self._socket.sendto(words, self._address)
            except OSError:
                return  # nobody listens any more, or has not read what was said before
