"""When a result that is being checked is given to the owner of its task. Pure: the time is passed in.

A newcomer's result is kept from its owner until it stands (`audits.holds_back`): what nobody knows yet is
wrong too often to be shown. That must not last for ever, and must not be where nobody checks: then the
result is given as pending, as are those of nodes that are known better, and replaced if it turns out false.
"""

from __future__ import annotations

from nodepool.domain.trust import audits

# As long as anybody waits for a check at all.
MOST_HELD_SECONDS = audits.MOST_BLOCK_SECONDS
# A check that has no node for so long may have none for much longer.
CHECKER_PATIENCE_SECONDS = 600.0


def held_back_until(block_size: int, *, take_pending: bool, checkers: int, now: float) -> float:
    """When the result that came now is given at the latest; 0: at once.

    `block_size` is that of its node (audits.block_size). `take_pending`: its owner does not want to wait.
    `checkers`: other owners whose nodes could run it.
    """
    if take_pending or not checkers or not audits.holds_back(block_size):
        return 0.0
    return now + MOST_HELD_SECONDS


def waits_longer(held_until: float, *, without_checker_since: float | None, now: float) -> bool:
    """Whether a result that is held back stays so. `without_checker_since`: the run that is to check it waits
    for a node since then; None: it has one."""
    if now >= held_until:
        return False
    return without_checker_since is None or now < without_checker_since + CHECKER_PATIENCE_SECONDS
