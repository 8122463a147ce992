"""The SQL tables of notifications: where users are told, and what is to be sent, was sent, or was given up.

Everybody imports them from tables.py.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, String, Table, Text, text

from nodepool.stores.sql.account_tables import metadata

# Keys are encrypted as users' secrets are (stores/files/secret_box.py).
notify_targets = Table(
    "notify_targets",
    metadata,
    Column("id", String(32), primary_key=True),  # of one that is set anew under a name it is another
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("kind", String(16), nullable=False),  # one of TargetKind
    Column("url", Text, nullable=False),
    Column("receiver", String(300), nullable=False),  # what is reached for it: host:port, or the address
    Column("sealed", LargeBinary, nullable=False),
    # The key before, which signs beside it until that time.
    Column("sealed_before", LargeBinary),
    Column("before_until", Float, nullable=False, server_default="0"),
    Column("set_at", Float, nullable=False),
    Column("confirmed_at", Float),  # of a mail: when its code was told; none: not yet
    Column("wrong_codes", Integer, nullable=False, server_default="0"),
    # The newest try: when, whether it was sent, and what was answered.
    Column("told_at", Float),
    Column("told_state", String(16), nullable=False, server_default=""),
    Column("told_words", String(300), nullable=False, server_default=""),
)
Index("uq_notify_targets_user_name", notify_targets.c.user_id, notify_targets.c.name, unique=True)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String(64), primary_key=True),  # as its receiver is told it, the same in every try
    Column("user_id", ForeignKey("users.id"), nullable=False),
    # No foreign key: what is left of a target that is gone is shown, and never sent.
    Column("target_id", String(32), nullable=False),
    Column("target", String(64), nullable=False),
    Column("receiver", String(300), nullable=False),
    Column("kind", String(16), nullable=False),  # one of NotificationKind
    Column("subject_id", String(128), nullable=False, server_default=""),  # a task's or job's id
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False),  # one of DeliveryState
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("first_due_at", Float, nullable=False),
    # When it is tried, or tried again. While it is being sent: when that counts as lost.
    Column("due_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("words", String(300), nullable=False, server_default=""),  # what came of the newest try
)
_WAITING = text("state = 'waiting'")
Index(
    "ix_notifications_due",
    notifications.c.due_at,
    sqlite_where=_WAITING,
    postgresql_where=_WAITING,
)
Index("ix_notifications_user", notifications.c.user_id, notifications.c.first_due_at)
Index("ix_notifications_subject", notifications.c.user_id, notifications.c.subject_id)
_CODES = text("kind = 'code'")
Index(
    "ix_notifications_codes",
    notifications.c.receiver,
    notifications.c.created_at,
    sqlite_where=_CODES,
    postgresql_where=_CODES,
)
_ENDED = text("ended_at IS NOT NULL")
Index("ix_notifications_ended", notifications.c.ended_at, sqlite_where=_ENDED, postgresql_where=_ENDED)
