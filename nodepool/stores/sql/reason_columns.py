"""A reason as the three columns that tasks and attempts have for it.

Its words are stored with it: people read the tables, and so does a version of the pool that knows no codes.
"""

from __future__ import annotations

from nodepool.domain.tasks.reasons import MAX_REASON, Reason


def reason_columns(reason: Reason) -> dict[str, str]:
    return {
        "reason": str(reason)[:MAX_REASON],
        "reason_code": reason.code.value,
        "reason_parameters": reason.parameters_as_json(),
    }
