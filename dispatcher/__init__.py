"""The dispatcher (`celery -A dispatcher worker`): takes hints, places tasks, sweeps up leftovers."""

from __future__ import annotations

from dispatcher.app import app

__all__ = ["app"]
