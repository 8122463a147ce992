"""Where a user is told: a webhook's URL or a mail address, under a name that tasks say. Pure.

One rule for the client, who is told before anything is sent, and for the gateway. Which address a webhook's
name may have is asked when it is called: nodepool.domain.nodes.push_addresses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.nodes.push_addresses import check_callable

MAX_NAME = 64
MAX_OF_USER = 20
MAX_OF_TASK = 5
MAX_URL = 2000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
# Visible ASCII, as a URL is sent. Anything else has to be escaped by whoever writes it.
_URL = re.compile(r"[!-~]+")
# Ports below are of protocols that take a request for words of their own.
_FIRST_FREE_PORT = 1024
_PORTS = {"http": 80, "https": 443}
# What every mail server takes without quotes, and no header can be made of.
_LOCAL = re.compile(r"[A-Za-z0-9_+=-]+(?:\.[A-Za-z0-9_+=-]+)*")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)
_MAX_LOCAL, _MAX_ADDRESS = 64, 254
_MOST_NAMED = 20


class TargetKind(StrEnum):
    WEBHOOK = "webhook"
    MAIL = "mail"


@dataclass(frozen=True, slots=True)
class WantedTarget:
    """`receiver`: what is reached for it, by which senders take turns. Of a mail: the address."""

    kind: TargetKind
    url: str
    receiver: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL's parts; `path` with its query."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header: without the port that everybody takes."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"


def check_target_name(name: str) -> str:
    """As it is. Raises InvalidInputError."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"a target's name has at most {MAX_NAME} letters, digits, dots, dashes and underscores, and "
            "begins and ends with a letter or digit"
        )
    return name


def target_of(url: str) -> WantedTarget:
    """Raises InvalidInputError for what is neither a webhook's URL nor a mail address."""
    if not isinstance(url, str) or len(url) > MAX_URL or not _URL.fullmatch(url):
        raise InvalidInputError(
            f"a target is a URL of at most {MAX_URL} visible ASCII characters: https://…, http://… or "
            "mailto:…"
        )
    scheme = url.partition(":")[0].casefold()
    if scheme == "mailto":
        address = mail_address_of(url)
        return WantedTarget(TargetKind.MAIL, f"mailto:{address}", address.casefold())
    webhook = webhook_of(url)
    return WantedTarget(TargetKind.WEBHOOK, url, f"{webhook.host.casefold()}:{webhook.port}")


def webhook_of(url: str) -> Webhook:
    """Raises InvalidInputError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInputError("the URL cannot be read: it is https://HOST[:PORT]/PATH") from None
    scheme, host = parts.scheme.casefold(), parts.hostname or ""
    if scheme not in _PORTS or not host or not url[len(scheme) :].startswith("://"):
        raise InvalidInputError("a target is told at https://HOST[:PORT]/PATH, http://… or mailto:ADDRESS")
    if "@" in parts.netloc:
        raise InvalidInputError(
            "a URL with a user and password is not taken: they would be kept and shown. The receiver knows "
            "the pool by the signature; a token can be in the path"
        )
    if "#" in url or "\\" in url:
        raise InvalidInputError("a URL that is called has neither # nor a backslash")
    if port is None:
        port = _PORTS[scheme]
    if port not in _PORTS.values() and not _FIRST_FREE_PORT <= port <= 65535:
        raise InvalidInputError(
            f"webhooks are called on port 80, 443 or one from {_FIRST_FREE_PORT} up, not on {port}"
        )
    check_callable(host, "the URL's host")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Webhook(is_tls=scheme == "https", host=host, port=port, path=path)


def mail_address_of(url: str) -> str:
    """Of mailto:ADDRESS. Raises InvalidInputError for more than one address, and for headers beside it."""
    address = url.partition(":")[2]
    local, at, domain = address.rpartition("@")
    fits = len(local) <= _MAX_LOCAL and len(address) <= _MAX_ADDRESS
    if not (at and fits and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain)):
        raise InvalidInputError(
            "a mail target is mailto:NAME@DOMAIN: one address of letters, digits, dots and _ + = -, and "
            "nothing beside it"
        )
    return address


def wanted_targets(names: Iterable[str]) -> tuple[str, ...]:
    """Names of a task's targets, each once. Raises InvalidInputError."""
    if isinstance(names, str):
        raise InvalidInputError("targets are a list of names, not one text")
    found = tuple(dict.fromkeys(check_target_name(name) for name in names))
    if len(found) > MAX_OF_TASK:
        raise InvalidInputError(f"at most {MAX_OF_TASK} targets are told of one end, not {len(found)}")
    return found


def check_are_set(wanted: Collection[str], known: Collection[str], unconfirmed: Collection[str]) -> None:
    """Raises NotFoundError for one that is not set, and InvalidInputError for an address not confirmed."""
    for name in wanted:
        if name not in known:
            there = ", ".join(sorted(known)[:_MOST_NAMED]) or "none at all"
            raise NotFoundError(
                f"you have no target {name} for notifications, but these: {there}; `hivemind notify set "
                f"{name} URL` sets it"
            )
        if name in unconfirmed:
            raise InvalidInputError(
                f"the address of target {name} is not confirmed: `hivemind notify confirm {name} CODE` with "
                "the code that was mailed there"
            )
