"""Fail when the committed protobuf code is not what proto/nodepool.proto generates."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as out:
        generator = [str(ROOT / "scripts/gen_proto.sh"), out]
        done = subprocess.run(generator, check=False, env={**os.environ, "PYTHON": sys.executable})
        if done.returncode != 0:
            return done.returncode
        generated = sorted(path.relative_to(out) for path in Path(out).rglob("*_pb2*"))
        stale = [
            str(name) for name in generated if Path(out, name).read_bytes() != (ROOT / name).read_bytes()
        ]
    if stale:
        print(f"stale: {', '.join(stale)}; run: make proto")
        return 1
    print(f"proto: {len(generated)} generated files are fresh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
