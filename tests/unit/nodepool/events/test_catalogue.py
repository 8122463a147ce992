"""Names and fields of events, and a page that is fresh."""

from __future__ import annotations

import re

import pytest

from nodepool.events.catalogue import EVENTS, EndFigures, Event, FloodEvent
from nodepool.events.field_words import FIELD_WORDS
from scripts import events_table

# What every line has already.
_TAKEN = {"event", "level", "timestamp", "request", "action", "exception", "stack"}
_SECRET_WORDS = ("password", "token", "secret", "authorization")


def _subclasses(of: type[Event]) -> set[type[Event]]:
    return {of}.union(*(_subclasses(it) for it in of.__subclasses__()))


def test_every_event_is_in_the_catalogue_once() -> None:
    # By name: a dataclass with slots is made anew, and the first one may be there still.
    kinds = {it.__name__ for it in (Event, FloodEvent, EndFigures)}
    assert {it.__name__ for it in _subclasses(Event)} - kinds == {it.__name__ for it in EVENTS}
    assert len({it.action for it in EVENTS}) == len(EVENTS) > 20


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.action)
def test_an_event_follows_the_conventions(event: type[Event]) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", event.action)
    assert event.words.endswith(".")
    for name in events_table.fields_of(event):
        assert name in FIELD_WORDS
        assert name not in _TAKEN
        assert not any(word in name for word in _SECRET_WORDS), "it would be hidden"


def test_no_field_is_explained_that_is_nowhere() -> None:
    used = {name for event in EVENTS for name in events_table.fields_of(event)}
    assert used == FIELD_WORDS.keys()


def test_the_page_has_every_event_as_it_is() -> None:
    text = events_table.PART.page.read_text(encoding="utf-8")
    assert events_table.PART.put_into(text) == text, "run: python scripts/events_table.py --write"
    assert all(f"| `{event.action}` |" in text for event in EVENTS)


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        events_table.PART.put_into("# nothing")
