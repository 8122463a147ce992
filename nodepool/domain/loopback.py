"""What is this machine itself, by its spelling: a name could resolve to anywhere. Pure."""

from __future__ import annotations

import ipaddress


def is_loopback_host(host: str) -> bool:
    """`host` is a name or an address without its port, an IPv6 one with or without brackets."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
