"""The agent on somebody's machine: takes attempts, runs them, reports. Knows no store of the pool."""
