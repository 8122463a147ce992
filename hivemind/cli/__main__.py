"""`python -m hivemind.cli`: the command where its script is not on the path."""

from __future__ import annotations

import sys

from hivemind.cli.entry import main

sys.exit(main())
