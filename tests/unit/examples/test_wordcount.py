"""The text of examples/wordcount is the same on every machine and in every version of Python."""

from __future__ import annotations

import hashlib
import runpy

from tests.support.environment import ROOT

MAIN = ROOT / "examples" / "wordcount" / "main.py"


def test_the_text_that_a_seed_makes_never_changes() -> None:
    example = runpy.run_path(str(MAIN))
    text = "".join(example["make_text"](example["SEED"], 1_000))
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "be37e01c5c2399e30f2c8f1a665d65226f6f651905935a3b14e5928e75e9928d"
    )
    assert "".join(example["make_text"](example["SEED"] + 1, 1_000)) != text


def test_words_are_counted_whatever_their_case_and_marks() -> None:
    count_words = runpy.run_path(str(MAIN))["count_words"]
    assert count_words(["Va va, VA.\n", "va's ro\n"]) == {"va": 3, "va's": 1, "ro": 1}
