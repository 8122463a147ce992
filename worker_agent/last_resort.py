"""A process that was told to end does so, even where a part of it hangs: what hangs is shown, and it ends.

Whoever stops an agent does not wait for ever, and what is needed to mend it stands in its log.
"""

from __future__ import annotations

import faulthandler

_STDERR = 2


def end_within(seconds: float) -> None:
    """Unless `ended` comes before: the stacks of all threads on stderr, and the process's end with status 1.

    A later call counts in place of an earlier one.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)


def ended() -> None:
    """It has come to its end by itself."""
    faulthandler.cancel_dump_traceback_later()
