"""Settings of notifications: how often people are told, for how long it is tried, and by which mail server.

Part of nodepool.settings.Settings, which says how they are read.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.notifications.targets import mail_address_of


class SmtpTls(StrEnum):
    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class NotifySettings(BaseSettings):
    """Names end with their unit, or are counts."""

    notifications_per_minute: int = Field(
        60, ge=1, le=10_000, description="notifications of one user that are sent within a minute"
    )
    notify_max_tries: int = Field(
        12, ge=1, le=100, description="tries of one notification; between them 10 s, doubled up to an hour"
    )
    notify_try_seconds: float = Field(
        10.0, gt=0, le=60, description="a receiver that has not answered after this time is tried again"
    )
    smtp_host: str = Field(
        "", description="mail server by which notifications are mailed; empty: mailto: targets are refused"
    )
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_tls: SmtpTls = Field(SmtpTls.STARTTLS, description="starttls, tls (from the first byte) or none")
    smtp_user: str = Field("", description="user at the mail server; empty: no login")
    smtp_password: str = Field("", description="that user's password")
    smtp_from: str = Field("", description="address that notifications come from, such as pool@example.org")

    @field_validator("smtp_from")
    @classmethod
    def _sender_is_an_address(cls, address: str) -> str:
        try:
            return mail_address_of(f"mailto:{address}") if address else ""
        except InvalidInputError:
            raise ValueError("SMTP_FROM must be one mail address, such as pool@example.org") from None

    @model_validator(mode="after")
    def _mail_is_whole(self) -> NotifySettings:
        if self.smtp_host and not self.smtp_from:
            raise ValueError("SMTP_HOST needs SMTP_FROM: the address that mails come from")
        if self.smtp_password and not self.smtp_user:
            raise ValueError("SMTP_PASSWORD needs SMTP_USER")
        if self.smtp_user and self.smtp_tls is SmtpTls.NONE:
            raise ValueError("SMTP_TLS=none would send SMTP_PASSWORD unencrypted: leave SMTP_USER empty")
        return self
