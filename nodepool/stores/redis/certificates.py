"""Certificates on the way to the broker: looked at when a part of the pool starts, to say what is wrong.

A part that has started keeps asking: its log says why it is not let in.
"""

from __future__ import annotations

from pathlib import Path

import redis

from nodepool.broker_errors import not_trusted_words, tls_problem
from nodepool.domain.broker_address import check_authority
from nodepool.domain.errors import BrokerNotTrustedError, InvalidInputError
from nodepool.settings_broker import BrokerSettings
from nodepool.stores.redis.client import Client


def check(client: Client, settings: BrokerSettings) -> None:
    """Raises InvalidInputError for files that are none, BrokerNotTrustedError where TLS fails.

    Whether the broker is there at all is not asked.
    """
    for name in ("redis_ca_file", "redis_cert_file", "redis_key_file"):
        if path := getattr(settings, name):
            _read(path, name.upper())
    if settings.redis_ca_file:
        check_authority(_read(settings.redis_ca_file, "REDIS_CA_FILE"), "REDIS_CA_FILE")
    authority_for_agents(settings)
    try:
        client.ping()
    except redis.RedisError as error:
        if reason := tls_problem(error):
            raise BrokerNotTrustedError(not_trusted_words(settings.broker.shown, reason)) from error


def authority_for_agents(settings: BrokerSettings) -> str:
    """What agents check the broker's certificate with, as PEM; empty: what their systems trust.

    Read anew each time: a new authority counts from the next enrolment on.
    """
    if not settings.agent_broker.tls:
        return ""
    if settings.agent_redis_ca_file:
        return check_authority(
            _read(settings.agent_redis_ca_file, "AGENT_REDIS_CA_FILE"), "AGENT_REDIS_CA_FILE"
        )
    if settings.redis_ca_file:
        return check_authority(_read(settings.redis_ca_file, "REDIS_CA_FILE"), "REDIS_CA_FILE")
    return ""


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{name}: {path} cannot be read: {error}") from error
