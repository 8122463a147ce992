"""Which words a book uses, and how often."""

import collections
import csv
import re
from pathlib import Path

BOOK = "alice.txt"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SHOWN = 15


def count_words(lines):
    counts = collections.Counter()
    for line in lines:
        counts.update(WORD.findall(line.lower()))
    return counts


def main():
    with Path(BOOK).open(encoding="utf-8") as book:
        lines = book.readlines()
    print(f"{BOOK}: {len(lines):,} lines")
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
