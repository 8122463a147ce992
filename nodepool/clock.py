"""The time, passed in where rules and use cases need it."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Returns Unix seconds.
Clock = Callable[[], float]

system_clock: Clock = time.time
