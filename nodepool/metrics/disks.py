"""Free disk of the folders that a part writes to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import SampledMetric, Samples


def disk_samples(folders: Mapping[str, Path]) -> Mapping[SampledMetric, Samples]:
    """By the folders' names here. May take long where a disk is elsewhere and away."""
    usage = {name: shutil.disk_usage(path) for name, path in folders.items()}
    return {
        catalogue.disk_free: {(name,): float(found.free) for name, found in usage.items()},
        catalogue.disk_size: {(name,): float(found.total) for name, found in usage.items()},
    }
