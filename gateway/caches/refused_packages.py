"""Packages that were looked at lately and refused: the same bytes again are refused without a look."""

from __future__ import annotations

import threading
from collections import OrderedDict

_MOST = 4096


class RefusedPackages:
    """Thread-safe. The rules for packages are settings, which do not change while a gateway runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: OrderedDict[str, str] = OrderedDict()

    def why(self, sha256: str) -> str:
        """Empty where nothing is known against it."""
        with self._lock:
            return self._why.get(sha256, "")

    def add(self, sha256: str, why: str) -> None:
        with self._lock:
            self._why[sha256] = why
            self._why.move_to_end(sha256)
            if len(self._why) > _MOST:
                self._why.popitem(last=False)
