"""Who calls, and whether they may. Knows no task and no node."""
