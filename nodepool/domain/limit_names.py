"""Names of the limits that somebody can hit, for programs. Pure."""

from __future__ import annotations

from enum import StrEnum


class LimitName(StrEnum):
    """Which bound it was; docs/settings.md has the numbers."""

    CALLS_PER_MINUTE = "calls_per_minute"
    OPEN_CALLS = "open_calls"
    CONNECTIONS = "connections"
    MESSAGE_MEMORY = "message_memory"
    WRONG_PASSWORDS = "wrong_passwords"
    NEW_ACCOUNTS = "new_accounts"
    UNFINISHED_TASKS = "unfinished_tasks"
    STORED_BYTES = "stored_bytes"
    SECRETS = "secrets"
    NOTIFY_TARGETS = "notify_targets"
    NOTIFY_CODES = "notify_codes"
    NOTIFICATIONS = "notifications"
    HEAVY_WORK = "heavy_work"
    OTHER = "other"
