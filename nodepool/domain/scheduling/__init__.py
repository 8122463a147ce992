"""Who is next, and which node is best: queue, placement, fair share, reclaiming. Pure."""
