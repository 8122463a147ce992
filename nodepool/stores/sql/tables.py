"""The SQL tables. Times are Unix seconds as floats; money and sizes are integers."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    literal_column,
    text,
)

from nodepool.stores.sql.account_tables import (
    admin_acts,
    credit_changes,
    holds,
    ledger_accounts,
    ledger_entries,
    ledger_head,
    login_addresses,
    login_guards,
    metadata,
    user_secrets,
    users,
)
from nodepool.stores.sql.attempt_tables import LIVE_ATTEMPT, attempts
from nodepool.stores.sql.job_tables import jobs
from nodepool.stores.sql.node_tables import nodes
from nodepool.stores.sql.notify_tables import notifications, notify_targets
from nodepool.stores.sql.trust_tables import node_records, owner_records, probes, provisional_results

__all__ = [
    "LIVE_ATTEMPT",
    "admin_acts",
    "attempts",
    "credit_changes",
    "holds",
    "jobs",
    "ledger_accounts",
    "ledger_entries",
    "ledger_head",
    "login_addresses",
    "login_guards",
    "metadata",
    "node_records",
    "nodes",
    "notifications",
    "notify_targets",
    "owner_records",
    "probes",
    "provisional_results",
    "storage_accounts",
    "task_labels",
    "tasks",
    "user_secrets",
    "users",
]

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("state", String(16), nullable=False),
    # In words, as they are shown; what it is by code and parameters (JSON). See domain/tasks/reasons.py.
    Column("reason", Text, nullable=False, server_default=""),
    Column("reason_code", String(32), nullable=False, server_default=""),
    Column("reason_parameters", Text, nullable=False, server_default=""),
    Column("cpu_score", Integer, nullable=False),
    Column("memory_gb", Integer, nullable=False),
    # What memory_gb is rounded up from; 0: memory_gb says it.
    Column("memory_mb", Integer, nullable=False, server_default="0"),
    Column("gpu_score", Integer, nullable=False),
    Column("gpu_memory_gb", Integer, nullable=False),
    Column("gpu_name", String(200), nullable=False),
    Column("region", String(16), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("pinned_node", String(129), nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="5"),
    Column("min_trust", String(16), nullable=False, server_default=""),
    Column("location_mode", String(16), nullable=False, server_default="strict"),
    # user: somebody's; replica: one of several runs of its parent; probe: the pool's own.
    Column("kind", String(16), nullable=False, server_default="user"),
    Column("parent_id", String(128), nullable=False, server_default=""),
    # Of a task of a job: which, and its index there.
    Column("job_id", String(128), nullable=False, server_default=""),
    Column("job_index", Integer, nullable=False, server_default="0"),
    Column("replicas", Integer, nullable=False, server_default="1"),
    Column("compare_outputs", Text, nullable=False, server_default=""),  # one pattern a line
    Column("verification", String(16), nullable=False, server_default=""),
    # Its owner takes a result that is checked before the check has an answer.
    Column("take_pending", Boolean, nullable=False, server_default=text("false")),
    Column("after", Text, nullable=False, server_default=""),  # ids, one a line; of a job's tasks not here
    Column("after_any", Text, nullable=False, server_default=""),
    Column("exclusive", Boolean, nullable=False, server_default=text("false")),  # never twice at one moment
    Column("fresh", Boolean, nullable=False, server_default=text("false")),  # in a sandbox of its own
    # Names of secrets by the variables that they become (JSON; domain/tasks/run_secrets.py).
    Column("secrets", Text, nullable=False, server_default=""),
    Column("secrets_on_low_trust", Boolean, nullable=False, server_default=text("false")),
    # Tries of its own program where that fails (domain/tasks/retries.py): how many more, after which exit
    # codes (with blanks between; empty: all), after how long, and how many have failed.
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("retry_on", String(160), nullable=False, server_default=""),
    Column("backoff_seconds", Integer, nullable=False, server_default="0"),
    Column("tries_failed", Integer, nullable=False, server_default="0"),
    # No node gets it before; 0: nothing keeps it. And what its next placement sets aside again.
    Column("wait_until", Float, nullable=False, server_default="0"),
    Column("hold_again", BigInteger, nullable=False, server_default="0"),
    # The task or job that it does again.
    Column("resubmit_of", String(128), nullable=False, server_default=""),
    # For its entry script (JSON; domain/tasks/run_inputs.py), and what its node's agent must be able to do.
    Column("arguments", Text, nullable=False, server_default=""),
    Column("environment", Text, nullable=False, server_default=""),
    Column("capabilities", Text, nullable=False, server_default=""),
    # For people. Labels are JSON here, as they are shown; task_labels finds tasks by them.
    Column("name", String(128), nullable=False, server_default=""),
    Column("labels", Text, nullable=False, server_default=""),
    # Names of targets that are told of its end, one a line, and when that was written down; 0: not yet.
    Column("notify", Text, nullable=False, server_default=""),
    Column("notified_at", Float, nullable=False, server_default="0"),
    # When its result is given at the latest; 0: nothing is held back.
    Column("held_back_until", Float, nullable=False, server_default="0"),
    Column("result_digest", String(64), nullable=False, server_default=""),
    Column("price_per_minute", BigInteger, nullable=False, server_default="0"),
    # Its price is set aside when it is first placed, and not when it is accepted; the fee as agreed then.
    Column("holds_when_placed", Boolean, nullable=False, server_default=text("false")),
    Column("fee_percent", Integer, nullable=False, server_default="0"),
    # Its owner named no max_minutes, and it has as many as their balance covered.
    Column("minutes_by_balance", Boolean, nullable=False, server_default=text("false")),
    Column("image", String(300), nullable=False),
    Column("network", Boolean, nullable=False),
    Column("max_minutes", Integer, nullable=False),
    Column("package_sha256", String(64), nullable=False),
    Column("package_bytes", BigInteger, nullable=False),
    # 0 until the first attempt. Its own id is random: its node sees it.
    Column("attempt_number", Integer, nullable=False, server_default="0"),
    Column("attempts_ended", Integer, nullable=False, server_default="0"),
    Column("node_id", String(129), nullable=False, server_default=""),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    Column("stopped_by_operator", Boolean, nullable=False, server_default=text("false")),
    Column("exit_code", Integer),
    Column("result_bytes", BigInteger, nullable=False, server_default="0"),
    Column("result_attempt", String(140), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    # Whether its package must stay (stores/sql/storage_accounting.py).
    Column("keeps_package", Boolean, nullable=False, server_default=text("true")),
    # What of it is in its owner's storage account: its result's bytes, since it ended.
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    # What it keeps is to be looked at when it has ended.
    Column("storage_due", Boolean, nullable=False, server_default=text("true")),
    # When its package and result were removed, after RESULT_DAYS or by its owner; 0: they are there.
    Column("files_removed_at", Float, nullable=False, server_default="0"),
    # Its output, kept apart since its result is removed.
    Column("log_bytes", BigInteger, nullable=False, server_default="0"),
    # When its owner deleted it; for everybody but the pool's own rules it is not there since.
    Column("deleted_at", Float, nullable=False, server_default="0"),
    # When the dispatcher was last told of it; the sweep tells it again.
    Column("hinted_at", Float, nullable=False),
    # When it last began to wait: accepted, or given back by a lost or refused attempt.
    Column("queued_at", Float, nullable=False, server_default="0"),
)
# A row for each label of a user's task, with what a list is ordered by: one index finds a page of it.
task_labels = Table(
    "task_labels",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
    Column("owner_id", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)
Index(
    "ix_task_labels_found",
    task_labels.c.owner_id,
    task_labels.c.key,
    task_labels.c.value,
    task_labels.c.created_at,
    task_labels.c.task_id,
)
Index(
    "ix_tasks_owner_name",
    tasks.c.owner_id,
    tasks.c.name,
    tasks.c.created_at,
    tasks.c.id,
    sqlite_where=tasks.c.name != "",
    postgresql_where=tasks.c.name != "",
)
# Counts of a job's tasks by state, and those that wait in the order of their indices.
Index(
    "ix_tasks_job",
    tasks.c.job_id,
    tasks.c.state,
    tasks.c.job_index,
    sqlite_where=tasks.c.job_id != "",
    postgresql_where=tasks.c.job_id != "",
)
Index(
    "ix_tasks_job_index",
    tasks.c.job_id,
    tasks.c.job_index,
    sqlite_where=tasks.c.job_id != "",
    postgresql_where=tasks.c.job_id != "",
)
# Those of no job. SQLite takes an index of which it knows two columns before one of which it knows one.
_SINGLE = text("job_id = ''")
Index(
    "ix_tasks_single_state",
    tasks.c.job_id,
    tasks.c.state,
    tasks.c.created_at,
    tasks.c.id,
    sqlite_where=_SINGLE,
    postgresql_where=_SINGLE,
)
# Those that wait for their next try.
Index(
    "ix_tasks_wait_until",
    tasks.c.wait_until,
    sqlite_where=tasks.c.wait_until > 0,
    postgresql_where=tasks.c.wait_until > 0,
)
# In the order in which the sweep pages through them: those whose result is held back, and those that have
# not ended and whose runs are compared.
_HELD_BACK = text("held_back_until > 0")
Index("ix_tasks_held_back", tasks.c.id, sqlite_where=_HELD_BACK, postgresql_where=_HELD_BACK)
_UNDECIDED = text("replicas > 1 AND state IN ('WAITING', 'QUEUED', 'PLACED', 'RUNNING')")
Index("ix_tasks_undecided", tasks.c.id, sqlite_where=_UNDECIDED, postgresql_where=_UNDECIDED)
# How many bytes the tasks of an account keep (see storage_store).
storage_accounts = Table(
    "storage_accounts",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
)
# As text: SQLite takes an index of some rows only where a query names them as the index does, and SQLAlchemy
# would write "= 1" there.
KEEPS_PACKAGE, STORAGE_DUE = text("tasks.keeps_package"), text("tasks.storage_due")
HELD_BACK: ColumnElement[bool] = literal_column("tasks.held_back_until > 0")
WAITS_FOR_TRY = text("tasks.wait_until > 0")
UNDECIDED = text("tasks.replicas > 1 AND tasks.state IN ('WAITING', 'QUEUED', 'PLACED', 'RUNNING')")
Index(
    "ix_tasks_kept_package",
    tasks.c.package_sha256,
    tasks.c.owner_id,
    sqlite_where=text("keeps_package"),
    postgresql_where=text("keeps_package"),
)
Index(
    "ix_tasks_storage_due",
    tasks.c.finished_at,
    sqlite_where=text("storage_due AND finished_at IS NOT NULL"),
    postgresql_where=text("storage_due AND finished_at IS NOT NULL"),
)
_GIVEN = text("secrets <> ''")
Index("ix_tasks_secrets", tasks.c.owner_id, tasks.c.state, sqlite_where=_GIVEN, postgresql_where=_GIVEN)
_TO_TELL = text("notify <> '' AND notified_at = 0 AND finished_at IS NOT NULL")
Index("ix_tasks_notify", tasks.c.finished_at, sqlite_where=_TO_TELL, postgresql_where=_TO_TELL)
# What goes after a while, oldest first (stores/sql/removal.py).
_ENDED = "finished_at IS NOT NULL AND kind <> 'replica' AND kind <> 'audit'"
for _name, _column, _where in (
    ("ix_tasks_with_files", tasks.c.finished_at, f"{_ENDED} AND files_removed_at = 0"),
    ("ix_tasks_without_files", tasks.c.finished_at, f"{_ENDED} AND files_removed_at > 0"),
    ("ix_tasks_kept_log", tasks.c.finished_at, "log_bytes > 0"),
    ("ix_tasks_deleted", tasks.c.deleted_at, "deleted_at > 0"),
):
    Index(_name, _column, sqlite_where=text(_where), postgresql_where=text(_where))
Index("ix_tasks_parent", tasks.c.parent_id)
# What lists are ordered by (stores/sql/task_lists.py). All tasks of an array have one time: their ids count.
Index("ix_tasks_owner_created", tasks.c.owner_id, tasks.c.created_at, tasks.c.id)
Index("ix_tasks_owner_state", tasks.c.owner_id, tasks.c.state, tasks.c.created_at, tasks.c.id)
Index("ix_tasks_state_created", tasks.c.state, tasks.c.created_at, tasks.c.id)
Index(
    "ix_tasks_owner_node",
    tasks.c.owner_id,
    tasks.c.node_id,
    tasks.c.created_at,
    tasks.c.id,
    sqlite_where=tasks.c.node_id != "",
    postgresql_where=tasks.c.node_id != "",
)
# For their owners those run whose result is held back.
Index(
    "ix_tasks_owner_held_back",
    tasks.c.owner_id,
    tasks.c.created_at,
    tasks.c.id,
    sqlite_where=tasks.c.held_back_until > 0,
    postgresql_where=tasks.c.held_back_until > 0,
)
# Beginnings of ids; an array's tasks are named by their job.
Index(
    "ix_tasks_owner_single",
    tasks.c.owner_id,
    tasks.c.id,
    sqlite_where=_SINGLE,
    postgresql_where=_SINGLE,
    postgresql_ops={"id": "text_pattern_ops"},
)
# A user's earlier runs of a package. Of ended tasks only, so that accepting one costs no more for it.
Index(
    "ix_tasks_package_finished",
    tasks.c.owner_id,
    tasks.c.package_sha256,
    tasks.c.finished_at,
    sqlite_where=tasks.c.finished_at.is_not(None),
    postgresql_where=tasks.c.finished_at.is_not(None),
)
