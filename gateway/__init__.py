"""The gateway: calls of people, agents and workers come in, are checked and answered. Runs no task."""
