"""Arrays as pure values: templates, names, items, and what is stored of each task."""

from __future__ import annotations

import json

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks import arrays
from nodepool.domain.tasks.arrays import ArrayInputs, expand, item_line, parse
from nodepool.domain.tasks.run_inputs import RunInputs


def inputs(*arguments: str, names: tuple[str, ...] = (), **environment: str) -> ArrayInputs:
    return ArrayInputs.of(names, RunInputs(arguments, environment))


def stored(items: str, given: ArrayInputs) -> list[tuple[int, list[str], dict[str, str]]]:
    rows = [row for piece in expand(items.encode(), given) for row in json.loads(piece)]
    return [(index, json.loads(words or "[]"), json.loads(values or "{}")) for index, words, values in rows]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain", "plain"),
        ("--lr={lr}", "--lr=0.1"),
        ("{index}:{lr}{lr}", "7:0.10.1"),
        ("{{lr}}", "{lr}"),
        ('{{"a": {lr}}}', '{"a": 0.1}'),
        ("{{{lr}}}", "{0.1}"),
        ("", ""),
    ],
)
def test_values_come_into_braces_and_doubled_ones_are_braces(text: str, rendered: str) -> None:
    assert parse(text, ("index", "lr"), "argument").render({"index": "7", "lr": "0.1"}) == rendered


@pytest.mark.parametrize("text", ["{lrr}", "{}", "{lr", "lr}", "{ lr}", "{lr!r}", "{{{lr}}"])
def test_what_is_no_template_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"names \{|single '[{}]'"):
        parse(text, ("index", "lr"), "argument")


def test_a_value_is_not_read_as_a_template() -> None:
    given = inputs("{a}", names=("a",))
    assert stored(item_line(0, ["{index} {{"]), given) == [(0, ["{index} {{"], {})]


def test_each_task_has_its_own_and_indices_are_as_given() -> None:
    given = inputs("--lr", "{lr}", names=("lr", "note"), RUN="{index}-{note}")
    items = item_line(5, ["0.1", 'q"uote']) + item_line(2, ["1e-3", "ü"])
    assert stored(items, given) == [
        (5, ["--lr", "0.1"], {"RUN": '5-q"uote'}),
        (2, ["--lr", "1e-3"], {"RUN": "2-ü"}),
    ]


def test_tasks_that_differ_by_nothing_are_worked_out_once() -> None:
    given = inputs("same", A="b")
    assert not given.varies
    assert stored("".join(item_line(index) for index in range(3)), given) == [
        (index, ["same"], {"A": "b"}) for index in range(3)
    ]


def test_pieces_are_as_large_as_one_transaction() -> None:
    items = "".join(item_line(index) for index in range(2 * arrays.PIECE_TASKS + 1))
    sizes = [len(json.loads(piece)) for piece in expand(items.encode(), inputs("x"))]
    assert sizes == [arrays.PIECE_TASKS, arrays.PIECE_TASKS, 1]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ("", "1 to 100000 tasks, not 0"),
        (item_line(1) + item_line(1), "index 1 is there twice"),
        (item_line(-1), "an index is 0 to"),
        ("[true]\n", "does not begin with an index"),
        ('["0"]\n', "does not begin with an index"),
        ("[0\n", "is no JSON"),
        ("{}\n", "does not begin with an index"),
        (item_line(0, ["a"]), "has 1 values, and there are 0 names"),
        ("[" * 100_000 + "\n", "is no JSON"),
    ],
)
def test_items_that_are_no_array_are_refused(items: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        expand(items.encode(), inputs("x"))


def test_one_task_too_many_is_refused() -> None:
    items = b"[0]\n" * (arrays.MAX_TASKS + 1)
    with pytest.raises(InvalidInputError, match="not 100001"):
        expand(items, inputs("x"))


def test_a_value_that_no_run_can_be_given_names_its_task() -> None:
    with pytest.raises(InvalidInputError, match=r"task 3 of the array: .*NUL"):
        expand(item_line(3, ["a\0b"]).encode(), inputs("{a}", names=("a",)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("index",), "cannot be called 'index'"),
        (("a", "a"), "two values are called 'a'"),
        (("1a",), "is no name of a value"),
        (("a b",), "is no name of a value"),
        (("",), "is no name of a value"),
        (tuple(f"n{number}" for number in range(65)), "at most 64 values"),
    ],
)
def test_names_that_cannot_be_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        inputs("x", names=names)
