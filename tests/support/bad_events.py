"""Celery's events as agents send them, and as only somebody who means harm does."""

from __future__ import annotations

import base64
import bz2
import json
import time
import uuid
import zlib
from functools import lru_cache
from typing import Any

BOMB_BYTES = 96 << 20


def heartbeat(node_id: str, **fields: Any) -> dict[str, Any]:
    known = {"freq": 60.0, "active": 0, "processed": 7, "loadavg": [0.1, 0.2, 0.3], "pid": 1, "clock": 3}
    software = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
    event = {
        "type": "worker-heartbeat",
        "hostname": f"agent@{node_id}",
        "timestamp": time.time(),
        "utcoffset": 0,
    }
    return {**event, **known, **software, **fields}


def received(node_id: str, **fields: Any) -> dict[str, Any]:
    event = {"type": "task-received", "hostname": f"agent@{node_id}", "timestamp": time.time(), "clock": 1}
    task = {"uuid": str(uuid.uuid4()), "name": "worker_agent.execute", "args": "['x:1']", "kwargs": "{}"}
    return {**event, **task, "retries": 0, "eta": None, "expires": None, "pid": 1, "utcoffset": 0, **fields}


def envelope(event: Any, **changes: Any) -> bytes:
    """As kombu writes it; `changes` are of its parts, `headers` and `properties` added to."""
    plain = changes.pop("plain", None)
    body = json.dumps(event).encode() if plain is None else plain
    properties = {
        "delivery_tag": str(uuid.uuid4()),
        "delivery_mode": 1,
        "delivery_info": {"exchange": "x", "routing_key": "y"},
        "priority": 0,
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            **changes,
            "headers": {"hostname": "agent", **changes.get("headers", {})},
            "properties": {**properties, "body_encoding": "base64", **changes.get("properties", {})},
        }
    ).encode()


@lru_cache
def bomb(node_id: str, size_bytes: int = BOMB_BYTES) -> bytes:
    """A heartbeat and so many blanks, in a few hundred bytes."""
    packer = bz2.BZ2Compressor()
    parts = [packer.compress(json.dumps(heartbeat(node_id)).encode())]
    blanks = b" " * (1 << 20)
    parts += [packer.compress(blanks) for _ in range(size_bytes >> 20)]
    return envelope(
        None, plain=b"".join([*parts, packer.flush()]), headers={"compression": "application/x-bz2"}
    )


def hostile(node_id: str, other: str) -> dict[str, tuple[str, bytes]]:
    """By what is wrong: why it has to be dropped, and the message."""

    def beat(**fields: Any) -> bytes:
        return envelope(heartbeat(node_id, **fields))

    def task(**fields: Any) -> bytes:
        return envelope(received(node_id, **fields))

    whole = heartbeat(node_id)
    raw = json.dumps(whole).encode()

    def number(word: str) -> bytes:
        return envelope(0, plain=json.dumps({**whole, "active": "N"}).replace('"N"', word).encode())

    return {
        "bzip2": ("compressed", bomb(node_id, 1 << 20)),
        "gzip": (
            "compressed",
            envelope(0, plain=zlib.compress(raw), headers={"compression": "application/x-gzip"}),
        ),
        "compressed by a property": ("compressed", envelope(whole, properties={"compression": "zlib"})),
        "an unknown compression": ("compressed", envelope(whole, headers={"compression": []})),
        "pickle": ("encoding", envelope(whole, **{"content-type": "application/x-python-serialize"})),
        "yaml": ("encoding", envelope(whole, **{"content-type": "application/x-yaml"})),
        "an encoding of its own": ("encoding", envelope(whole, **{"content-encoding": "utf-16"})),
        "binary": ("encoding", envelope(whole, **{"content-encoding": "binary"})),
        "a codec that unpacks": ("encoding", envelope(whole, **{"content-encoding": "bz2"})),
        "a body that is not in base64": ("encoding", envelope(whole, properties={"body_encoding": "zlib"})),
        "no base64": ("unreadable", envelope(whole, body="a*b")),
        "no JSON": ("unreadable", envelope(0, plain=b"{'a'")),
        "no UTF-8": ("unreadable", envelope(0, plain=b'"\xff"')),
        "not even an envelope": ("unreadable", b"\x00\x01"),
        "an envelope that is a list": ("shape", b"[]"),
        "an envelope without anything": ("shape", b"{}"),
        "a body that is a number": ("shape", envelope(whole, body=7)),
        "deep": ("unreadable", envelope(0, plain=b"[" * 20_000 + b"]" * 20_000)),
        "deep around": ("unreadable", b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
        "endless": ("unreadable", number("Infinity")),
        "no number": ("unreadable", number("NaN")),
        "a number of 5,000 digits": (
            "unreadable",
            number("9" * 5000),
        ),
        "a number beyond floats": ("shape", number("1e999")),
        "a number of 400 digits": ("shape", number("9" * 400)),
        "large": ("too_large", envelope({**whole, "x": "x" * 100_000})),
        "many": ("too_large", envelope([{"type": "worker-heartbeat"}] * 500)),
        "no event": ("shape", envelope([7])),
        "an event of no type": ("shape", envelope({"hostname": f"agent@{node_id}"})),
        "a type of its own": ("shape", beat(type="worker-joined")),
        "a type that is a list": ("shape", beat(type=["worker-heartbeat"])),
        "a type that Celery knows and we do not": ("shape", beat(type="task-sent")),
        "another's name": ("sender", beat(hostname=f"agent@{other}")),
        "a dispatcher's name": ("sender", beat(hostname="dispatcher@pool")),
        "a name in HTML": ("sender", beat(hostname="agent@<script>alert(1)</script>")),
        "a name that is a number": ("shape", beat(hostname=5)),
        "a time far ahead": ("time", beat(timestamp=time.time() + 1e9)),
        "a time long ago": ("time", beat(timestamp=0)),
        "a time in words": ("shape", beat(timestamp="now")),
        "no time": ("shape", beat(timestamp=None)),
        "alive for ever": ("shape", beat(freq=1e18)),
        "a period in words": ("shape", beat(freq="5")),
        "a load in HTML": ("shape", beat(loadavg=["<img src=x onerror=alert(1)>"])),
        "a load that is deep": ("unreadable", beat(loadavg=[[[1]]])),
        "software in HTML": ("shape", beat(sw_ident="<script>alert(1)</script>")),
        "fewer tasks than none": ("shape", beat(active=-1)),
        "tasks in words": ("shape", beat(processed="1")),
        "true tasks": ("shape", beat(active=True)),
        "a task of no id": ("shape", task(uuid=None)),
        "a task whose id is a list": ("shape", task(uuid=["x"])),
        "a task whose id is HTML": ("shape", task(uuid="<b>")),
        "a task of the dispatcher's": ("shape", task(name="dispatcher.place")),
        "a task whose name is HTML": ("shape", task(name="<b>")),
        "arguments that are an object": ("shape", task(args={"a": 1})),
        "a run of no time": ("shape", task(type="task-succeeded", runtime="1")),
        "a task that nobody received": ("unknown_task", task(type="task-started")),
    }


def strange(node_id: str) -> dict[str, bytes]:
    """Messages that are shown, without what is strange in them."""
    return {
        "fields of Flower's own": envelope(
            heartbeat(node_id, heartbeats="x", alive=1, event=None, id=5, _fields=[], update="x")
        ),
        "a count of its own": envelope(heartbeat(node_id, clock=1 << 62)),
        "an offset of its own": envelope(heartbeat(node_id, utcoffset="x")),
        "words that are HTML": envelope(
            received(node_id, args="<script>alert(1)</script>", kwargs="\ud800\u202e\x07")
        ),
        "children and parents": envelope(
            received(node_id, parent_id=[], root_id={}, children=5, worker="x", state=9)
        ),
        "long words": envelope(received(node_id, args="a" * 20_000, eta="x" * 5_000, expires="y" * 5_000)),
    }
