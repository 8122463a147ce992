"""The dispatcher (`celery -A dispatcher worker`): takes hints, places tasks, sweeps up leftovers."""

from __future__ import annotations

import os

from nodepool import hardening

# Before the settings are read. Only where this process was started with secrets to be handed over.
hardening.begin(os.environ)

from dispatcher.app import app  # noqa: E402

__all__ = ["app"]
