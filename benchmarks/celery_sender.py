"""The yardstick of submission: `send_task` in a loop, with the pool's Celery settings. Run by `submit.py`."""

from __future__ import annotations

import json
import sys
import time
import uuid

import redis
from celery import Celery
from kombu import Exchange, Queue

import celeryconfig

QUEUE = "bench.send_task"


def main() -> None:
    order = json.load(sys.stdin)
    app = Celery("bench")
    app.config_from_object(celeryconfig)
    # A queue that nobody consumes, and the pool's do not change.
    app.conf.update(
        broker_url=order["broker_url"],
        task_queues=[Queue(QUEUE, Exchange("", type="direct"), routing_key=QUEUE)],
    )
    ids = [str(uuid.uuid4()) for _ in range(order["count"])]
    app.send_task("bench.warm_up", args=["0"], queue=QUEUE)
    began = time.perf_counter()
    for task_id in ids:
        app.send_task("bench.place", args=[task_id], queue=QUEUE)
    taken = time.perf_counter() - began
    app.close()
    with redis.Redis.from_url(order["broker_url"]) as client:
        arrived = client.llen(QUEUE)
        client.delete(QUEUE)
    if arrived != len(ids) + 1:
        sys.exit(f"{arrived} of {len(ids) + 1} messages arrived")
    json.dump({"per_second": len(ids) / taken}, sys.stdout)


if __name__ == "__main__":
    main()
