"""A fault program: a whole pool under a steady load, broken again and again in an order that a seed decides.

`python -m tests.chaos --seed 1 --minutes 3`. What happens when (`plan`), what must stay true (`invariants`)
and what is told of it (`report`) are pure; `stage`, `faults`, `workload` and `watch` are the real parts.
docs/faults.md has what it found.
"""
