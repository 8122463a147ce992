"""Names, units and labels as Prometheus's conventions have them, and a page that is fresh."""

from __future__ import annotations

import re

import pytest

from nodepool.metrics.catalogue import OTHER, CatalogueEntry, MetricKind, Part, bounded, entries
from nodepool.metrics.server import registry_of
from scripts import metrics_table

_UNITS = ("_seconds", "_bytes", "_score", "_total", "_info")
# What a label may be called: each has values from a set that the pool knows.
_LABELS = {
    "part", "version", "outcome", "reason_class", "state", "source", "folder", "method", "code", "tier",
    "lane", "cause", "region", "queue_name", "name", "hostname", "exception",
    "limit",
}  # fmt: skip


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_metric_follows_the_conventions(entry: CatalogueEntry) -> None:
    assert re.fullmatch(r"(hivemind|celery)_[a-z_]+[a-z]", entry.name)
    assert (entry.kind is MetricKind.COUNTER) == entry.name.endswith("_total")
    assert set(entry.labels) <= _LABELS
    assert entry.words.endswith(".")
    if entry.kind is MetricKind.HISTOGRAM and entry.name.startswith("hivemind"):
        assert entry.name.endswith(_UNITS)


def test_no_name_stands_twice() -> None:
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names)) > 50


def test_the_page_has_every_metric_as_it_is() -> None:
    text = metrics_table.PART.page.read_text(encoding="utf-8")
    assert metrics_table.PART.put_into(text) == text, "run: python scripts/metrics_table.py --write"
    assert all(f"`{entry.name}`" in text for entry in entries())


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        metrics_table.PART.put_into("# nothing")


def test_a_value_that_the_pool_does_not_know_makes_no_label() -> None:
    assert bounded("asia", {"asia", "europe"}) == "asia"
    assert bounded('x"} 1\nforged 2', {"asia", "europe"}) == OTHER


@pytest.mark.parametrize("part", Part)
def test_a_part_shows_its_own_metrics_only(part: Part) -> None:
    shown = {family.name for family in registry_of(part).collect()}
    for entry in entries():
        if entry.collector is not None:
            assert (entry.name.removesuffix("_total") in shown) == (part in entry.parts), entry.name
