"""The attacks. Each is a function that a process of its own runs; it returns how its calls ended."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.connection import Connection

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.attacks import bombs
from benchmarks.attacks.owners import compared_results
from benchmarks.attacks.target import MIB, Line, Target, ends
from nodepool.protocol import nodepool_pb2 as pb

BIG_BYTES = 95 * MIB
UPLOADS = 20
STREAMS = 1000
WATCHERS = 200
CONNECTIONS = 400
LOGINS = 60
PACKAGES, MANY_PACKAGES = 24, 60

Attack = Callable[[Target], Counter[str]]


def uploads_without_a_token(target: Target) -> Counter[str]:
    return _uploads(target, ())


def uploads_of_one_user(target: Target) -> Counter[str]:
    return _uploads(target, target.metadata)


def _uploads(target: Target, metadata: tuple[tuple[str, str], ...]) -> Counter[str]:
    request = pb.UploadTaskRequest(task_id="big", task_zip=bytes(BIG_BYTES))
    lines = [Line(target) for _ in range(UPLOADS)]
    calls = [
        line.tasks.UploadTask.future(request, metadata=metadata, timeout=target.seconds) for line in lines
    ]
    return _ended(lines, ends(calls, target.seconds))


def packages_of_the_largest_size(target: Target) -> Counter[str]:
    """What the pool takes, as much of it at once as goes."""
    package = bombs.small(1, 9 * MIB)
    return _packages(target, MANY_PACKAGES, lambda _: package)


def compressed_messages(target: Target) -> Counter[str]:
    """90 MiB of zeros, 90 KiB on the way."""
    request = pb.LoginRequest(username="x" * (90 * MIB), password="y")
    lines = [Line(target) for _ in range(UPLOADS // 2)]
    calls = [
        line.users.Login.future(request, compression=grpc.Compression.Gzip, timeout=target.seconds)
        for line in lines
    ]
    return _ended(lines, ends(calls, target.seconds))


def stalled_streams_without_a_token(target: Target) -> Counter[str]:
    return _stalled(target, ())


def stalled_streams_of_one_user(target: Target) -> Counter[str]:
    return _stalled(target, target.metadata)


def _stalled(target: Target, metadata: tuple[tuple[str, str], ...]) -> Counter[str]:
    """Each sends its first message and a megabyte, and then nothing."""
    over = time.monotonic() + target.seconds

    def messages(number: int) -> Iterator[pb.UploadTaskStreamRequest]:
        yield pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest(task_id=f"stalled-{number}"))
        yield pb.UploadTaskStreamRequest(zip_chunk=bytes(MIB))
        while time.monotonic() < over:
            time.sleep(0.5)

    lines = [Line(target) for _ in range(10)]
    calls = [
        lines[number % 10].tasks.UploadTaskStream.future(
            messages(number), metadata=metadata, timeout=target.seconds
        )
        for number in range(STREAMS)
    ]
    return _ended(lines, ends(calls, 0.01 + target.seconds / STREAMS))


def unread_watchers(target: Target) -> Counter[str]:
    """Watch a task that waits for ever, from many streams that nobody reads."""
    lines = [Line(target) for _ in range(4)]
    task_id = bombs.name()
    needs = pb.UploadTaskRequest(task_id=task_id, task_zip=bombs.small(1, 10), cpu_score=10_000_000)
    lines[0].tasks.UploadTask(needs, metadata=target.metadata)
    request = pb.WatchTaskRequest(task_id=task_id)
    streams = [
        lines[number % 4].tasks.WatchTask(request, metadata=target.metadata, timeout=target.seconds)
        for number in range(WATCHERS)
    ]
    found = _left_open(streams, target.seconds / 2)
    lines[0].tasks.StopTask(pb.StopTaskRequest(task_id=task_id, token=target.token), timeout=10)
    return _ended(lines, found)


def health_watchers_without_a_token(target: Target) -> Counter[str]:
    lines = [Line(target) for _ in range(10)]
    request = health_pb2.HealthCheckRequest()
    streams = [
        health_pb2_grpc.HealthStub(lines[number % 10].channel).Watch(request, timeout=target.seconds)
        for number in range(STREAMS)
    ]
    found = _left_open(streams, target.seconds / 2)
    return _ended(lines, found)


def many_connections(target: Target) -> Counter[str]:
    lines = [Line(target) for _ in range(CONNECTIONS)]
    calls = [line.nodes.HealthCheck.future(pb.HealthCheckRequest(), timeout=target.seconds) for line in lines]
    return _ended(lines, ends(calls, target.seconds))


def logins(target: Target) -> Counter[str]:
    """Each costs the pool a bcrypt, whether the name exists or not."""
    lines = [Line(target) for _ in range(4)]
    calls = [
        lines[number % 4].users.Login.future(
            pb.LoginRequest(username=bombs.name(), password="a wrong password"), timeout=target.seconds
        )
        for number in range(LOGINS)
    ]
    return _ended(lines, ends(calls, target.seconds))


def folders_in_a_package(target: Target) -> Counter[str]:
    package = bombs.folders()
    return _packages(target, 10, lambda _: package)


def dense_packages(target: Target) -> Counter[str]:
    return _packages(target, 10, bombs.late_damage)


def dictionaries(target: Target) -> Counter[str]:
    package = bombs.lzma_dictionary()
    return _packages(target, 10, lambda _: package)


def _packages(target: Target, number: int, make: Callable[[int], bytes]) -> Counter[str]:
    packages = [make(seed) for seed in range(number)]
    lines = [Line(target) for _ in range(number)]
    calls = [
        line.tasks.UploadTask.future(
            pb.UploadTaskRequest(task_id=bombs.name(), task_zip=package),
            metadata=target.metadata,
            timeout=target.seconds,
        )
        for line, package in zip(lines, packages, strict=True)
    ]
    return _ended(lines, ends(calls, target.seconds))


def stopped_at_once(target: Target) -> Counter[str]:
    """Packages of 5 MB that no node can run, stopped as soon as they are accepted."""
    line = Line(target)
    found: Counter[str] = Counter()
    for seed in range(PACKAGES):
        task_id = bombs.name()
        request = pb.UploadTaskRequest(
            task_id=task_id, task_zip=bombs.small(seed, 5 * MIB), gpu_name="none has it"
        )
        try:
            line.tasks.UploadTask(request, metadata=target.metadata, timeout=target.seconds)
            line.tasks.StopTask(
                pb.StopTaskRequest(task_id=task_id, token=target.token), timeout=target.seconds
            )
            found["OK"] += 1
        except grpc.RpcError as error:
            found[error.code().name] += 1
    return _ended([line], found)


def a_flood_of_calls(target: Target) -> Counter[str]:
    """One user's cheap calls, as many as go through."""
    over = time.monotonic() + target.seconds / 2
    lines = [Line(target) for _ in range(8)]

    def ask(line: Line) -> Counter[str]:
        found: Counter[str] = Counter()
        request = pb.GetAllTasksRequest(token=target.token)
        while time.monotonic() < over:
            try:
                line.tasks.GetAllTasks(request, timeout=target.seconds)
                found["OK"] += 1
            except grpc.RpcError as error:
                found[error.code().name] += 1
        return found

    with ThreadPoolExecutor(len(lines)) as threads:
        return _ended(lines, sum(threads.map(ask, lines), Counter[str]()))


def events_for_flower(target: Target) -> Counter[str]:
    """A compressed event, malformed ones, and many invented workers, as a node's own broker user."""
    line = Line(target)
    node_id = f"{target.username}/attacker"
    registration = pb.RegisterWorkerNodeRequest(
        node_id=node_id, hostname="attacker", cpu_cores=1, memory_gb=1, cpu_score=1000, location="Unknown",
        docker_status="unavailable", kind="agent", max_tasks=1, instance="1",
    )  # fmt: skip
    line.nodes.RegisterWorkerNode(registration, metadata=target.metadata)
    enrolled = line.nodes.EnrollAgent(
        pb.EnrollAgentRequest(node_id=node_id, instance="1"), metadata=target.metadata
    )
    line.close()
    channel = f"/{enrolled.broker_url.rpartition('/')[2] or 0}.{enrolled.event_exchange}/worker.heartbeat"
    found: Counter[str] = Counter()
    over = time.monotonic() + target.seconds / 2
    with redis.Redis.from_url(enrolled.broker_url) as client:
        for message in _events(node_id):
            if time.monotonic() > over:
                break
            client.publish(channel, message)
            found["published"] += 1
        time.sleep(target.seconds / 4)
    return found


def _events(node_id: str) -> Iterator[bytes]:
    zeros = zlib.compress(b'{"type":"worker-online","hostname":"' + b"x" * (300 * MIB) + b'"}', 9)
    twice = {"compression": "application/x-gzip"}
    yield _envelope(zeros, twice)
    for body in (b"", b"[]", b"{", b"null", b'{"type": 5}', b'{"type":"task-sent","uuid":{}}', b"[" * 900):
        yield _envelope(body, {})
    for number in count():
        event = {
            "type": "worker-online", "hostname": f"agent@{number}-{node_id}", "timestamp": 1e12,
            "clock": 2**60, "freq": 1e9, "pid": 1, "utcoffset": 0,
            "sw_ident": "<script>", "sw_ver": "1", "sw_sys": "Linux",
        }  # fmt: skip
        yield _envelope(json.dumps(event).encode(), {})


def _envelope(body: bytes, headers: dict[str, str]) -> bytes:
    properties = {
        "delivery_mode": 1, "delivery_info": {"exchange": "celeryev", "routing_key": "worker.heartbeat"},
        "priority": 0, "body_encoding": "base64", "delivery_tag": "x",
    }  # fmt: skip
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    ).encode()


def _left_open(streams: Sequence[grpc.Call], seconds: float) -> Counter[str]:
    """How many are still open when nobody has read of them for so long. Ends them."""
    time.sleep(seconds)
    found: Counter[str] = Counter()
    for stream in streams:
        found["still open" if stream.is_active() else "ended"] += 1
        stream.cancel()
    return found


def _ended(lines: list[Line], found: Counter[str]) -> Counter[str]:
    for line in lines:
        line.close()
    return found


ATTACKS: dict[str, Attack] = {
    "20 uploads of 95 MiB, no token": uploads_without_a_token,
    "20 uploads of 95 MiB, one user": uploads_of_one_user,
    "60 packages of 9 MiB at once, one user": packages_of_the_largest_size,
    "compressed messages, no token": compressed_messages,
    "1,000 stalled uploads, no token": stalled_streams_without_a_token,
    "1,000 stalled uploads, one user": stalled_streams_of_one_user,
    "200 watchers that do not read": unread_watchers,
    "1,000 health watchers, no token": health_watchers_without_a_token,
    "400 connections": many_connections,
    "60 logins": logins,
    "2,000,000 folders in a package": folders_in_a_package,
    "packages of 500 MiB, bad at their end": dense_packages,
    "results of 600 MiB to compare": compared_results,
    "LZMA with a dictionary of 4 GiB": dictionaries,
    "5 MiB submitted and stopped, 24 times": stopped_at_once,
    "a flood of cheap calls": a_flood_of_calls,
    "events for Flower": events_for_flower,
}


def carry_out(name: str, target: Target, pipe: Connection) -> None:
    """For a process of its own: one attack, and how its calls ended through the pipe."""
    pipe.send(ATTACKS[name](target))
