"""`python -m worker_agent` and the script `hivemind-agent`: the agent, or what is to be installed for it."""

from __future__ import annotations

import sys

from nodepool.starting import start


def main() -> int:
    return start("hivemind-agent", "worker_agent.process:main", "agent")


if __name__ == "__main__":
    sys.exit(main())
