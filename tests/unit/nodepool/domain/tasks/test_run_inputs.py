"""Arguments and environment variables of a task: what is carried, what is refused, and with which words."""

from __future__ import annotations

import json

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.environment_names import WHY, WHY_OF_PREFIX, check_environment_names
from nodepool.domain.tasks.run_inputs import (
    MAX_ARGUMENTS,
    MAX_INPUT_BYTES,
    MAX_VARIABLES,
    RunInputs,
    arguments_from_json,
    arguments_to_json,
    check_bounds,
    mapping_from_json,
    mapping_to_json,
)
from tests.support.environment import ROOT

ODD = (
    "",
    "--lr=0.1",
    "-",
    "two words",
    "line\nbreak",
    "\r\n\t\x01\x7f",
    "$HOME `id`; rm",
    "'\"\\",
    "火鍋 🍲",
    "\u2028",
)


def test_every_odd_word_is_stored_as_it_is() -> None:
    assert arguments_from_json(arguments_to_json(RunInputs(ODD).arguments)) == ODD
    odd = {f"V{number}": word for number, word in enumerate(ODD)}
    assert mapping_from_json(mapping_to_json(RunInputs(environment=odd).environment)) == odd


def test_equal_environments_are_equal_texts_whatever_their_order() -> None:
    assert mapping_to_json({"B": "2", "A": "1"}) == mapping_to_json({"A": "1", "B": "2"})
    assert (mapping_to_json({}), arguments_to_json([])) == ("", "")
    assert json.loads(arguments_to_json([""])) == [""]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (("a",) * (MAX_ARGUMENTS + 1), {}, "at most 1024 arguments, not 1025"),
        ((), {f"V{number}": "" for number in range(MAX_VARIABLES + 1)}, "at most 256 environment variables"),
        (("x" * MAX_INPUT_BYTES,), {}, "have 32769 bytes together, over the limit of 32768"),
        (("火" * (MAX_INPUT_BYTES // 3),), {"A": "bc"}, "put what is long into a file"),
        (("fine", "nu\0l"), {}, "argument 2 has a NUL"),
        ((), {"A": "\0"}, "environment variable A has a NUL"),
        (("\udcff",), {}, "argument 1 is not valid UTF-8"),
        ((0.1,), {}, "argument 1 must be text, not float"),
        ((), {"A": 1}, "environment variable A must be text, not int"),
        ((), {1: "A"}, "a task cannot set '1' "),
        ("one text", {}, "a list of words, not one text"),
    ],
)
def test_what_no_run_can_be_given_is_refused(
    arguments: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        RunInputs(arguments, environment)


def test_all_that_the_bound_allows_is_taken() -> None:
    assert RunInputs(("x" * (MAX_INPUT_BYTES - 1),))
    assert not RunInputs()
    with pytest.raises(InvalidInputError):
        check_bounds(["x" * MAX_INPUT_BYTES], {})
    check_bounds(["x" * MAX_INPUT_BYTES], {}, pools_too=True)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PATH", "finds its interpreter"),
        ("HOME", "folder of the run's sandbox"),
        ("TASK_ID", "the pool sets it"),
        ("LD_PRELOAD", "before the run is shut into its sandbox"),
        ("LD_ANYTHING_NEW", "before the run is shut into its sandbox"),
        ("GLIBC_TUNABLES", "before the run is shut into its sandbox"),
        ("PYTHONHOME", "Python would not find its own library"),
        ("HIVEMIND_TOKEN", "names that begin so are the pool's"),
        ("DOCKER_HOST", "reaches no container engine"),
        ("NVIDIA_VISIBLE_DEVICES", "the pool decides which GPUs"),
        ("", "letters, digits and underscores"),
        ("1ST", "letters, digits and underscores"),
        ("BASH_FUNC_ulimit%%", "letters, digits and underscores"),
        ("A\nB", "letters, digits and underscores"),
        ("N" * 129, "letters, digits and underscores"),
    ],
)
def test_a_name_that_is_the_runs_own_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why) as refused:
        RunInputs(environment={name: ""})
    assert str(refused.value).isprintable()


def test_what_only_changes_the_owners_program_is_the_owners_business() -> None:
    RunInputs(
        environment=dict.fromkeys(("PYTHONPATH", "LANG", "OMP_NUM_THREADS", "PIP_INDEX_URL", "path"), "x")
    )


def test_every_refused_name_is_told_up_to_five() -> None:
    with pytest.raises(InvalidInputError, match=r"HOME .*LD_A .*, and 2 more"):
        RunInputs(environment=dict.fromkeys(["HOME", "LD_A", "LD_B", "LD_C", "LD_D", "LD_E", "LD_F"], ""))


def test_the_pool_may_set_its_own_names_and_no_others() -> None:
    check_environment_names(["HIVEMIND_INDEX"], pools_too=True)
    with pytest.raises(InvalidInputError):
        check_environment_names(["LD_PRELOAD"], pools_too=True)


def test_every_refused_name_is_in_the_documents_with_its_reason() -> None:
    page = (ROOT / "docs" / "submit.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for word, why in {**WHY, **WHY_OF_PREFIX}.items():
        assert any(f"`{word}`" in row and why in row for row in rows), f"docs/submit.md lacks {word}: {why}"
    for most in (MAX_ARGUMENTS, MAX_VARIABLES, MAX_INPUT_BYTES):
        assert f"{most:,}" in page


def test_no_value_is_in_what_may_be_logged() -> None:
    assert "hunter2" not in repr(RunInputs(("hunter2",), {"PASSWORD": "hunter2"}))
