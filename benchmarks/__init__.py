"""What the pool costs, measured beside what the same work costs without it: `python -m benchmarks`.

A user of the pool like any other: starts `hivemind up`, speaks gRPC, and knows of the product's
insides only the runners and Celery's settings, because those are the yardsticks.
"""
