"""Pi by throwing points at a square. Every task draws its own points, so many tasks make one estimate."""

import json
import os
import random
import time
from pathlib import Path

POINTS = 6_000_000
STEPS = 10


def main():
    task_id = os.environ.get("TASK_ID", "alone")
    # The task's id is the seed: each task has other points, and the same task always the same ones.
    random_number = random.Random(task_id).random
    started = time.perf_counter()
    inside = thrown = 0
    for step in range(1, STEPS + 1):
        for _ in range(POINTS // STEPS):
            x, y = random_number(), random_number()
            inside += x * x + y * y <= 1.0
        thrown += POINTS // STEPS
        print(f"{step * 100 // STEPS:3d} %  {thrown:>10,} points  pi is about {4 * inside / thrown:.5f}")
    result = {
        "task_id": task_id,
        "points": thrown,
        "inside": inside,
        "pi": 4 * inside / thrown,
        "seconds": round(time.perf_counter() - started, 3),
    }
    with Path("result.json").open("w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
    print(f"pi is about {result['pi']:.6f} (result.json)")


if __name__ == "__main__":
    main()
