"""Single keys from the terminal, without Enter and without showing them."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from types import TracebackType
from typing import Any

if sys.platform != "win32":
    import termios
    import tty


class Keys:
    """Use it in `with`. Hears nothing where stdin is no terminal; Ctrl-C stays what it is."""

    def __init__(self) -> None:
        self.heard = sys.platform != "win32" and sys.stdin.isatty()
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        if self.heard:
            try:
                self._before = termios.tcgetattr(sys.stdin)
                tty.setcbreak(sys.stdin, termios.TCSADRAIN)
            except termios.error:
                self.heard = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """The key that was pressed within that time, else empty."""
        if not self.heard:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if not ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 1)
        # The terminal is gone: it would be ready for ever.
        self.heard = bool(pressed)
        return pressed.decode("ascii", "ignore")
