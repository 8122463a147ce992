"""Hints over the broker: the pool's only room that speaks Celery and kombu. Any message may be lost."""
