"""Samples what a scrape shows of SQL, Redis and disks, so that a scrape costs little and never hangs.

Nothing is read until somebody scrapes. Each source is read by a thread of its own, no more often than its
period, and takes at most a small share of the time however long one reading takes. A scrape waits a
moment for readings under way and then shows the last ones, with their age; one that is too old is not shown
at all, so that nobody takes it for the present. Knows no store: sources are functions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import SampledMetric, Samples

log = logging.getLogger(__name__)

Read = Callable[[], Mapping[SampledMetric, Samples]]

# Reading a source takes at most one part in so many of the time.
_SHARE = 50
# How long a scrape waits for readings under way, all of them together.
_PATIENCE_SECONDS = 0.5
# Readings older than this many periods of their source, in their present length, are not shown.
_SHOWN_PERIODS = 5
_SHOWN_AT_LEAST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """`read` may take long or raise. With `period_seconds` 0 it looks at memory only, at each scrape."""

    name: str
    read: Read
    period_seconds: float = 0.0


@dataclass(slots=True)
class _Reading:
    """Of one source. Changed under the sampler's lock."""

    source: Source
    found: Mapping[SampledMetric, Samples] = field(default_factory=dict)
    read_at: float | None = None
    took_seconds: float = 0.0
    due_at: float = float("-inf")
    failures: int = 0
    under_way: bool = False

    def longest_age(self) -> float:
        period = max(self.source.period_seconds, self.took_seconds * _SHARE)
        return max(_SHOWN_AT_LEAST_SECONDS, _SHOWN_PERIODS * period)


class Sampler:
    """Thread-safe; a collector of prometheus_client."""

    def __init__(self, sources: Sequence[Source], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._changed = threading.Condition()
        self._readings = [_Reading(source) for source in sources]

    def collect(self) -> Iterator[Metric]:
        self._read_due()
        now = self._clock()
        merged: dict[SampledMetric, dict[tuple[str, ...], float]] = {}
        ages: dict[tuple[str, ...], float] = {}
        lengths: dict[tuple[str, ...], float] = {}
        failures: dict[tuple[str, ...], float] = {}
        with self._changed:
            for reading in self._readings:
                name = (reading.source.name,)
                age = now - (self._began if reading.read_at is None else reading.read_at)
                ages[name], failures[name] = max(0.0, age), reading.failures
                if reading.read_at is not None:
                    lengths[name] = reading.took_seconds
                if age <= reading.longest_age():
                    for metric, samples in reading.found.items():
                        merged.setdefault(metric, {}).update(samples)
        merged[catalogue.sample_age] = ages
        merged[catalogue.sample_seconds] = lengths
        merged[catalogue.sample_failures] = failures
        for metric, shown in merged.items():
            yield metric.family(shown)

    def describe(self) -> Iterable[Metric]:
        """Nothing: else a registry would read all of it to learn the names."""
        return ()

    def _read_due(self) -> None:
        now = self._clock()
        due = []
        with self._changed:
            for reading in self._readings:
                if reading.source.period_seconds and not reading.under_way and now >= reading.due_at:
                    reading.under_way = True
                    due.append(reading)
        for reading in due:
            name = f"sample {reading.source.name}"
            threading.Thread(target=self._read, args=(reading,), name=name, daemon=True).start()
        for reading in self._readings:
            if not reading.source.period_seconds:
                self._read(reading)
        with self._changed:
            self._changed.wait_for(
                lambda: not any(reading.under_way for reading in self._readings), _PATIENCE_SECONDS
            )

    def _read(self, reading: _Reading) -> None:
        began = self._clock()
        try:
            found: Mapping[SampledMetric, Samples] | None = reading.source.read()
        except Exception as error:  # noqa: BLE001 - whatever it is, the scrape goes on without this source
            found = None
            log.debug("the source %s could not be read: %s", reading.source.name, error)
        ended = self._clock()
        with self._changed:
            reading.under_way = False
            reading.due_at = ended + max(reading.source.period_seconds, (ended - began) * (_SHARE - 1))
            if found is None:
                reading.failures += 1
            else:
                reading.found, reading.read_at, reading.took_seconds = found, ended, ended - began
            self._changed.notify_all()
