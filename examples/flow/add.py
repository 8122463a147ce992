"""Add the numbers of one part up."""

import sys
from pathlib import Path

total = sum(map(int, Path(sys.argv[1]).read_text(encoding="utf-8").split()))
Path("sum.txt").write_text(str(total), encoding="utf-8")
print(total)
