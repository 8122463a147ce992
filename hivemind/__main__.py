"""`python -m hivemind` and the script `hivemind`: the command, or what is to be installed for it."""

from __future__ import annotations

import sys

from nodepool.starting import start


def main() -> int:
    return start("hivemind", "hivemind.cli:main", "client")


if __name__ == "__main__":
    sys.exit(main())
