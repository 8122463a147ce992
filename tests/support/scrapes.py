"""Scrapes of /metrics, as values by metric and labels."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def of(self, name: str, /, **labels: str) -> float | None:
        """None: it is not there with exactly these labels."""
        return self.values.get((name, frozenset(labels.items())))

    def some(self, name: str, /, **labels: str) -> float:
        """The sum over all that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, of), value in self.values.items() if found == name and wanted <= of)

    def names(self) -> set[str]:
        return {name for name, _ in self.values}

    def labels_of(self, name: str) -> Iterator[dict[str, str]]:
        return (dict(of) for found, of in self.values if found == name)


def scrape_text(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def scrape(port: int) -> Scrape:
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(scrape_text(port))
            for sample in family.samples
        }
    )
