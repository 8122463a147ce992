"""Which words a text uses, and how often. The text is made here, of invented words, and always the same."""

import collections
import csv
import random
import re
from pathlib import Path

SEED = 1865
WORDS = 200_000
DIFFERENT_WORDS = 3_000
WORDS_A_LINE = 12
SYLLABLES = [consonant + vowel for consonant in "bdklmnrstv" for vowel in "aeo"]
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SHOWN = 15


def make_text(seed, words):
    """Lines of words; a few words are frequent and most are rare, as in a language."""
    # Of all of `random` only random() promises the same numbers in every version of Python.
    number = random.Random(seed).random
    vocabulary = [
        "".join(SYLLABLES[int(number() * len(SYLLABLES))] for _ in range(1 + rank % 4))
        for rank in range(DIFFERENT_WORDS)
    ]
    line = []
    for _ in range(words):
        word = vocabulary[int(DIFFERENT_WORDS ** number()) - 1]
        kind = number()
        line.append(word.capitalize() if kind < 0.1 else f"{word}'s," if kind < 0.15 else word)
        if len(line) == WORDS_A_LINE:
            yield " ".join(line) + ".\n"
            line = []
    if line:
        yield " ".join(line) + ".\n"


def count_words(lines):
    counts = collections.Counter()
    for line in lines:
        counts.update(WORD.findall(line.lower()))
    return counts


def main():
    lines = list(make_text(SEED, WORDS))
    Path("text.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
    print(f"text.txt: {len(lines):,} lines")
    counts = count_words(lines)
    # Equal counts in alphabetical order, so that the file is the same on every machine.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    with Path("counts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["word", "count"])
        writer.writerows(ranked)
    print(f"{sum(counts.values()):,} words, {len(counts):,} different ones (counts.csv)")
    for word, count in ranked[:SHOWN]:
        print(f"{count:6,}  {word}")


if __name__ == "__main__":
    main()
