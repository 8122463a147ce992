"""Where the broker is and how a connection to it is checked: one URL for redis-py and for Celery.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]           rediss://… over TLS
    sentinel://[USER:PASSWORD@]A[:PORT],B,C/SERVICE[/DB]   sentinels://… over TLS, the sentinels too

TLS is always checked, certificate and host name. Nothing stands behind a `?`: both libraries read options
there, among them one that switches the check off. Knows no library: what they are told is a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from nodepool.domain.errors import InvalidInputError

REDIS_PORT = 6379
SENTINEL_PORT = 26379
# How long one sentinel may take to say who the master is. The next one is asked after it.
SENTINEL_SECONDS = 1.0
_SCHEMES = ("redis", "rediss", "sentinel", "sentinels")
_PEM_BEGIN = "-----BEGIN CERTIFICATE-----"
# The agents get them by gRPC, with each enrolment.
MAX_AUTHORITY_CHARACTERS = 256 * 1024
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class BrokerHost:
    name: str
    port: int

    @property
    def shown(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """`service` is the name under which the sentinels know the master; empty without sentinels."""

    hosts: tuple[BrokerHost, ...]
    tls: bool = False
    service: str = ""
    user: str = ""
    password: str = ""
    database: int = 0

    def with_user(self, user: str, password: str) -> BrokerAddress:
        return replace(self, user=user, password=password)

    @property
    def url(self) -> str:
        """As `parse` takes it."""
        scheme = ("sentinel" if self.service else "redis") + ("s" if self.tls else "")
        hosts = ",".join(host.shown for host in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{self._login}{hosts}{service}/{self.database}"

    @property
    def shown(self) -> str:
        """For people: without the password."""
        return replace(self, user="", password="").url

    @property
    def celery_url(self) -> str:
        """As kombu takes it: every sentinel a URL of its own, and the service's name among the options."""
        if not self.service:
            return self.url
        return ";".join(f"sentinel://{self._login}{host.shown}/{self.database}" for host in self.hosts)

    @property
    def _login(self) -> str:
        if not self.user and not self.password:
            return ""
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTrust:
    """What the broker's certificate is checked with, and the certificate that is shown to it.

    `ca_pem` are certificates themselves. Those that the system trusts count, too.
    """

    ca_file: str = ""
    ca_pem: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelLogin:
    """Sentinels have passwords of their own, or none."""

    user: str = ""
    password: str = ""


def parse(text: str, name: str) -> BrokerAddress:
    """`name` is what the URL is called where it was given. No error repeats it: it has a password in it."""
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in _SCHEMES:
        raise InvalidInputError(
            f"{name} must begin with redis://, rediss:// (over TLS), sentinel:// or sentinels:// (over TLS)"
        )
    if "?" in rest or "#" in rest:
        raise InvalidInputError(
            f"{name} takes no options behind a question mark: certificates are always checked. Their "
            "authority is set with REDIS_CA_FILE, the pool's own certificate with REDIS_CERT_FILE, and the "
            "database stands at the end of the path"
        )
    place, *path = rest.split("/")
    login, _, hosts = place.rpartition("@")
    user, _, password = login.partition(":")
    has_sentinels = scheme.startswith("sentinel")
    service, database = _service_and_database(path, has_sentinels=has_sentinels, name=name)
    port = SENTINEL_PORT if has_sentinels else REDIS_PORT
    names = hosts.split(",")
    if len(names) > 1 and not has_sentinels:
        raise InvalidInputError(f"{name} names several hosts: that is for sentinel:// with a service's name")
    return BrokerAddress(
        hosts=tuple(_host(each, port, name) for each in names),
        tls=scheme in ("rediss", "sentinels"),
        service=service,
        user=unquote(user),
        password=unquote(password),
        database=database,
    )


def parse_for_agents(text: str, name: str) -> BrokerAddress:
    """An address that agents get: one place, which is always the master's, and nobody's login."""
    address = parse(text, name)
    if address.service:
        raise InvalidInputError(
            f"{name} must be redis:// or rediss://: agents do not ask sentinels, but come to an address that "
            "follows the master (docs/operations.md)"
        )
    return address.with_user("", "")


def _service_and_database(path: list[str], *, has_sentinels: bool, name: str) -> tuple[str, int]:
    parts = [unquote(part) for part in path if part]
    service = parts.pop(0) if has_sentinels and parts else ""
    if has_sentinels and not _SERVICE.fullmatch(service):
        raise InvalidInputError(
            f"{name} needs the name under which the sentinels know the master: sentinel://A,B,C/SERVICE"
        )
    if len(parts) > 1 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise InvalidInputError(f"{name} has a database that is no number")
    return service, int(parts[0]) if parts else 0


def _host(text: str, default_port: int, name: str) -> BrokerHost:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or any(character.isspace() for character in host):
        raise InvalidInputError(f"{name} has no host, or a port that is none")
    return BrokerHost(host, port or default_port)


def check_authority(pem: str, name: str) -> str:
    """The certificates themselves. Raises InvalidInputError where there are none."""
    if _PEM_BEGIN not in pem or len(pem) > MAX_AUTHORITY_CHARACTERS:
        raise InvalidInputError(
            f"{name} must be a file of certificates in PEM, of at most {MAX_AUTHORITY_CHARACTERS >> 10} KiB"
        )
    return pem


def tls_options(address: BrokerAddress, trust: BrokerTrust) -> dict[str, Any]:
    """What redis-py is told of TLS, and Celery as `broker_use_ssl`; empty for plain text."""
    if not address.tls:
        return {}
    given: Mapping[str, str] = {
        "ssl_ca_certs": trust.ca_file,
        "ssl_ca_data": trust.ca_pem,
        "ssl_certfile": trust.cert_file,
        "ssl_keyfile": trust.key_file,
    }
    # Both said: older redis-py does not look at the host name by itself, and kombu checks nothing.
    checks = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return {**checks, **{option: value for option, value in given.items() if value}}


def sentinel_options(address: BrokerAddress, trust: BrokerTrust, login: SentinelLogin) -> dict[str, Any]:
    """How the sentinels are asked."""
    tls = {"ssl": True, **tls_options(address, trust)} if address.tls else {}
    named = {"username": login.user, "password": login.password}
    return {
        "socket_timeout": SENTINEL_SECONDS,
        "socket_connect_timeout": SENTINEL_SECONDS,
        # One that is away is not asked again before the others have been.
        "retry": None,
        **{option: value for option, value in named.items() if value},
        **tls,
    }


def celery_options(
    address: BrokerAddress,
    trust: BrokerTrust,
    login: SentinelLogin | None = None,
) -> dict[str, Any]:
    """Celery's settings for this broker. All three URLs: it prefers its own variables to the first."""
    sentinels = (
        {
            "master_name": address.service,
            "sentinel_kwargs": sentinel_options(address, trust, login or SentinelLogin()),
        }
        if address.service
        else {}
    )
    return {
        "broker_url": address.celery_url,
        "broker_read_url": address.celery_url,
        "broker_write_url": address.celery_url,
        "broker_use_ssl": tls_options(address, trust) or False,
        "broker_transport_options": sentinels,
    }
