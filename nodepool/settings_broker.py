"""Settings of the way to the broker: where it is, how its certificate is checked, what agents are told of it.

Part of nodepool.settings.Settings, which says how they are read.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from nodepool.domain import broker_address
from nodepool.domain.broker_address import BrokerAddress, BrokerTrust, SentinelLogin
from nodepool.domain.errors import InvalidInputError


class BrokerSettings(BaseSettings):
    """One broker for everything: what redis-py is told, Celery is told too."""

    redis_host: str = Field("127.0.0.1", description="Redis or Valkey server")
    redis_port: int = Field(6379, ge=1, le=65535, description="its port")
    redis_db: int = Field(0, ge=0, description="its database")
    redis_url: str = Field(
        "",
        description="redis://, rediss:// (TLS) or sentinel://A,B,C/SERVICE (TLS: sentinels://); wins over "
        "host, port and db",
    )
    celery_broker_url: str = Field(
        "", description="Celery's own name of REDIS_URL; where both are set they must be the same"
    )
    redis_ca_file: Path | None = Field(
        None,
        description="certificates (PEM) that the broker's is checked with, besides those the system trusts",
    )
    redis_cert_file: Path | None = Field(
        None, description="certificate (PEM) that the pool shows to the broker"
    )
    redis_key_file: Path | None = Field(None, description="private key (PEM) of that certificate")
    redis_sentinel_username: str = Field("", description="user of the pool at the sentinels; empty: none")
    redis_sentinel_password: str = Field("", description="password of the pool at the sentinels")
    agent_redis_url: str = Field(
        "",
        description="redis:// or rediss:// URL, no user in it, under which agents reach the broker; empty: "
        "the pool's own; needed with sentinel://",
    )
    agent_redis_ca_file: Path | None = Field(
        None, description="REDIS_CA_FILE of that address, told to agents; empty: REDIS_CA_FILE"
    )
    redis_timeout_seconds: float = Field(3.0, gt=0, description="how long one Redis command may take")

    @model_validator(mode="after")
    def _broker_can_be_found(self) -> Self:
        if self.celery_broker_url and self.redis_url not in ("", self.celery_broker_url):
            raise ValueError(
                "CELERY_BROKER_URL and REDIS_URL name two brokers, and the pool has one: set REDIS_URL only"
            )
        if bool(self.redis_cert_file) != bool(self.redis_key_file):
            raise ValueError("REDIS_CERT_FILE and REDIS_KEY_FILE go together")
        try:
            own, agents = self.broker, self.agent_broker
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
        if (self.redis_ca_file or self.redis_cert_file) and not own.tls:
            raise ValueError(
                "REDIS_CA_FILE and REDIS_CERT_FILE need TLS: REDIS_URL=rediss:// or sentinels://"
            )
        if self.agent_redis_ca_file and not agents.tls:
            raise ValueError("AGENT_REDIS_CA_FILE needs TLS: AGENT_REDIS_URL=rediss://")
        if own.database != agents.database:
            raise ValueError(
                f"AGENT_REDIS_URL has database {agents.database} and REDIS_URL {own.database}: it must be one"
            )
        return self

    @cached_property
    def effective_redis_url(self) -> str:
        named = self.redis_url or self.celery_broker_url
        return named or f"redis://{self.redis_host}:{self.redis_port}/{self.redis_db}"

    @cached_property
    def broker(self) -> BrokerAddress:
        return broker_address.parse(self.effective_redis_url, "REDIS_URL")

    @cached_property
    def agent_broker(self) -> BrokerAddress:
        """Where agents find the broker, with nobody's login."""
        if not self.agent_redis_url and self.broker.service:
            raise InvalidInputError(
                "AGENT_REDIS_URL must be set where REDIS_URL is sentinel://: an address that follows the "
                "master, as deploy/sentinel/haproxy.cfg makes one"
            )
        named = self.agent_redis_url or self.effective_redis_url
        return broker_address.parse_for_agents(named, "AGENT_REDIS_URL")

    @cached_property
    def broker_trust(self) -> BrokerTrust:
        return BrokerTrust(
            ca_file=_text(self.redis_ca_file),
            cert_file=_text(self.redis_cert_file),
            key_file=_text(self.redis_key_file),
        )

    @cached_property
    def sentinel_login(self) -> SentinelLogin:
        return SentinelLogin(user=self.redis_sentinel_username, password=self.redis_sentinel_password)


def _text(path: Path | None) -> str:
    return str(path) if path is not None else ""
