"""Settings of a gateway that stands behind a balancer, and of how it lets connections go.

Part of nodepool.settings.Settings, which says how they are read.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from nodepool.domain.client_address import ForwardedHeader
from nodepool.domain.nodes.push_addresses import Network, parse_networks


class BalancerSettings(BaseSettings):
    """What they say of clients is believed of trusted balancers only."""

    trusted_proxies: str = Field(
        "",
        description="balancers (addresses and networks, comma separated) that are believed whose call it is",
    )
    trusted_proxy_header: ForwardedHeader = Field(
        ForwardedHeader.X_FORWARDED_FOR,
        description="header in which those that speak HTTP/2 say it: x-forwarded-for or forwarded",
    )
    proxy_protocol_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for those that pass TCP on and say it in a PROXY header (v1, v2); 0: none",
    )
    proxy_protocol_host: str = Field("", description="address of that port; empty: GRPC_SERVER_HOST")
    grpc_connection_age_seconds: float = Field(
        300.0,
        ge=0,
        description="age at which a connection takes no more calls and its client makes a new one; 0: never",
    )
    grpc_connection_grace_seconds: float = Field(
        0.0,
        ge=0,
        description="how long its calls may go on; 0: as long as the slowest upload may take",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="how long a gateway that is told to stop says so to its balancer and still serves; then "
        "open calls have as long again, 3 s at the least",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, text: str, info: ValidationInfo) -> str:
        name = str(info.field_name).upper()
        for network in parse_networks(text, setting=name):
            if not network.prefixlen:
                raise ValueError(f"{name} must name your balancers: {network} is everybody")
        return text

    @model_validator(mode="after")
    def _somebody_speaks_the_proxy_protocol(self) -> Self:
        if self.proxy_protocol_port and not self.trusted_proxies.strip(" ,"):
            raise ValueError(
                "PROXY_PROTOCOL_PORT needs TRUSTED_PROXIES: only your own balancers are believed"
            )
        return self

    @cached_property
    def trusted_proxy_networks(self) -> tuple[Network, ...]:
        return parse_networks(self.trusted_proxies)
