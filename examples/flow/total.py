"""Add the sums of all parts up: each is in a folder named by the index of its task."""

import sys
from pathlib import Path

sums = [int(file.read_text(encoding="utf-8")) for file in Path(sys.argv[1]).glob("*/sum.txt")]
Path("total.txt").write_text(str(sum(sums)), encoding="utf-8")
print(f"{len(sums)} sums, together {sum(sums)}")
