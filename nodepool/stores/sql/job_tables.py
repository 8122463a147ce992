"""The SQL tables of jobs, which are tasks that belong together, and of what waits for other tasks.

Everybody imports jobs from tables.py.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from nodepool.stores.sql.account_tables import metadata

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("kind", String(16), nullable=False),  # one of JobKind
    Column("name", String(128), nullable=False, server_default=""),
    Column("labels", Text, nullable=False, server_default=""),  # JSON, as its tasks have them
    Column("count", Integer, nullable=False),  # of its tasks
    # What its runs are told as the number of tasks; 0: count. A part that is done again says the whole's.
    Column("array_count", Integer, nullable=False, server_default="0"),
    Column("resubmit_of", String(128), nullable=False, server_default=""),  # the job that it does again
    Column("digest", String(64), nullable=False),  # of all that was asked for: a repeat has the same
    Column("max_cpt", BigInteger, nullable=False, server_default="0"),  # that it may cost; 0: no bound
    Column("created_at", Float, nullable=False),
    # When all of its tasks were there. Before that there is nothing of it for anybody but who puts them in.
    Column("accepted_at", Float),
    # Who puts its tasks in, and when they last did.
    Column("holder", String(32), nullable=False, server_default=""),
    Column("renewed_at", Float, nullable=False),
    # When a dispatcher was last told of it; the sweep tells it again.
    Column("hinted_at", Float, nullable=False, server_default="0"),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    # When the sweep saw that nothing of it is unfinished.
    Column("ended_at", Float),
    # Names of targets that are told of that, one a line, and when it was written down; 0: not yet.
    Column("notify", Text, nullable=False, server_default=""),
    Column("notified_at", Float, nullable=False, server_default="0"),
)
Index("ix_jobs_owner_created", jobs.c.owner_id, jobs.c.created_at, jobs.c.id)
# Beginnings of ids.
Index("ix_jobs_owner_id", jobs.c.owner_id, jobs.c.id, postgresql_ops={"id": "text_pattern_ops"})
Index(
    "ix_jobs_open",
    jobs.c.created_at,
    sqlite_where=jobs.c.ended_at.is_(None),
    postgresql_where=jobs.c.ended_at.is_(None),
)

_TO_TELL = text("notify <> '' AND notified_at = 0 AND ended_at IS NOT NULL")
Index("ix_jobs_notify", jobs.c.ended_at, sqlite_where=_TO_TELL, postgresql_where=_TO_TELL)

# Of a flow: its steps, each with a range of the indices of the flow's tasks.
job_steps = Table(
    "job_steps",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("is_array", Boolean, nullable=False),
    Column("tasks", Integer, nullable=False),
    # That its runs are told as the number of tasks: of one that is done again in part, those of the whole.
    Column("array_count", Integer, nullable=False, server_default="0"),
    Column("first_index", Integer, nullable=False),
    Column("last_index", Integer, nullable=False),
    # Names of steps, one a line: what it comes after, and whose results its runs are given.
    Column("needs", Text, nullable=False, server_default=""),
    Column("needs_any", Text, nullable=False, server_default=""),
    Column("inputs", Text, nullable=False, server_default=""),
)
# What waits for what, as long as it does. A step is a number, or one of domain/tasks/dependencies.py.
dependencies = Table(
    "dependencies",
    metadata,
    Column("dependent_id", String(128), primary_key=True),  # a task, or a job
    Column("dependent_step", Integer, primary_key=True),
    Column("needed_id", String(128), primary_key=True),
    Column("needed_step", Integer, primary_key=True),
    Column("on_any_end", Boolean, nullable=False, server_default=text("false")),  # or on its success alone
)
Index("ix_dependencies_needed", dependencies.c.needed_id)
