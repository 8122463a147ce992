"""A network namespace with one link to this machine, which the test can cut. Needs root on Linux."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.environment import not_here

# For tests between networks; nobody's in earnest (RFC 2544).
_NETWORK = "198.18"
_NOBODYS_HARDWARE = "02:00:00:00:00:01"


class Namespace:
    """`host` is this machine's address on the link."""

    def __init__(self) -> None:
        tag = secrets.token_hex(4)
        self._name, self._outer, self._inner = f"hm-{tag}", f"hmo{tag}", f"hmi{tag}"
        self._prefix = f"{_NETWORK}.{secrets.randbelow(256)}"
        self.host = f"{self._prefix}.1"

    @property
    def within(self) -> tuple[str, ...]:
        """What runs a command inside."""
        return ("nsenter", f"--net=/run/netns/{self._name}")

    def make(self) -> None:
        ip("netns", "add", self._name)
        ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self._name)
        ip("address", "add", f"{self.host}/30", "dev", self._outer)
        ip("link", "set", self._outer, "up")
        self._in("address", "add", f"{self._prefix}.2/30", "dev", self._inner)
        self._in("link", "set", "lo", "up")
        self._in("link", "set", self._inner, "up")

    def unplug(self) -> None:
        self._in("link", "set", self._inner, "down")

    def plug_in(self) -> None:
        self._in("link", "set", self._inner, "up")

    def lose_everything(self) -> None:
        """What is sent inside arrives nowhere, and nobody is told so."""
        self._in("neigh", "replace", self.host, "lladdr", _NOBODYS_HARDWARE, "dev", self._inner)

    def lose_nothing(self) -> None:
        self._in("neigh", "del", self.host, "dev", self._inner)

    def remove(self) -> None:
        """The link goes with the namespace, and at the latest with its last process."""
        subprocess.run(["ip", "link", "del", self._outer], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)

    def _in(self, *arguments: str) -> None:
        ip("-n", self._name, *arguments)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Skips, or fails the test where every part is required, when none can be made."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("nsenter")):
        not_here("network namespaces need root, ip and nsenter")
    made = Namespace()
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            not_here(f"no network namespace can be made ({error.stderr.strip()})")
        yield made
    finally:
        made.remove()
