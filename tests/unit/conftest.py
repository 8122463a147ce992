"""Hypothesis without what a busy machine or an earlier run could change."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("same-everywhere", deadline=None, derandomize=True, database=None)
settings.load_profile("same-everywhere")
