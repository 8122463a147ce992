"""Cut the numbers from 1 to 10,000 into parts, each a file."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--parts", type=int, default=50)
parts = parser.parse_args().parts
numbers = range(1, 10_001)
for part in range(parts):
    Path(f"part-{part}.txt").write_text("\n".join(map(str, numbers[part::parts])), encoding="utf-8")
print(f"{len(numbers)} numbers in {parts} parts")
