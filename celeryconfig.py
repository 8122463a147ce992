"""Celery's settings for the pool's own processes: settings only, nothing is imported but names.

The reasons, with what was measured, stand in docs/adr/0002-celery-carries-hints.md.
"""

from __future__ import annotations

from kombu import Exchange, Queue

from nodepool import keepalive
from nodepool.domain.regions import TASK_REGIONS
from nodepool.domain.trust.tiers import TIERS

# Where the broker is, is the pool's own setting (nodepool.messaging.publisher.make_app).

# One queue per trust tier and region, `high.asia` to `low.any`. The anonymous exchange needs no
# binding keys in Redis, so a FLUSHALL cannot cut a queue off.
_direct = Exchange("", type="direct")
# `push` and `notify` are first: what they hold takes a moment, and must not wait behind tasks to place.
_names = ["push", "notify", *(f"{tier}.{region}" for tier in TIERS for region in TASK_REGIONS)]
task_queues = [Queue(name, _direct, routing_key=name) for name in _names]
task_default_queue = "low.any"
task_default_exchange = ""
task_default_routing_key = "low.any"
task_create_missing_queues = False

task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
enable_utc = True

# Hints only: what a message says can always be derived again from SQL, so nothing is kept.
task_ignore_result = True
result_backend = None
task_acks_late = False
worker_prefetch_multiplier = 1
broker_transport_options = {
    # A message is gone once popped. The sweep publishes again what was lost; the emulation's shared
    # `unacked` hash loses and doubles messages when the broker restarts.
    "ack_emulation": False,
    "priority_steps": [0],
    # -Q in tier order: high before normal before low.
    "queue_order_strategy": "priority",
    **keepalive.broker_options(3.0),
}
worker_consumer = "nodepool.messaging.consumer:PromptConsumer"
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True
task_publish_retry = False
worker_send_task_events = True
task_send_sent_event = False
worker_hijack_root_logger = False
worker_cancel_long_running_tasks_on_connection_loss = False
