"""Uploads tasks as fast as a gateway takes them, many in flight. Run by `submit.py`."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
import uuid
from typing import Any

import grpc

from benchmarks.figures import spread
from benchmarks.tasks import package
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.protocol.nodepool_pb2_grpc import MasterNodeServiceStub

CHANNELS = 4
CALL_SECONDS = 30.0


def requests(count: int, *, distinct: bool) -> list[pb.UploadTaskRequest]:
    """Made before the clock starts."""
    prefix = uuid.uuid4()
    one = package("print('small')\n")
    return [
        pb.UploadTaskRequest(
            task_id=str(uuid.uuid4()),
            task_zip=package(f"print('small {prefix} {number}')\n") if distinct else one,
        )
        for number in range(count)
    ]


async def upload_all(order: dict[str, Any]) -> dict[str, float]:
    waiting = iter(requests(order["count"], distinct=order["distinct"]))
    metadata = (("authorization", f"Bearer {order['token']}"),)
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(order["address"], options=options) for _ in range(CHANNELS)]
    stubs: Any = [MasterNodeServiceStub(channel) for channel in channels]
    latencies: list[float] = []

    async def work(stub: Any) -> None:
        for request in waiting:
            began = time.perf_counter()
            answer = await stub.UploadTask(request, metadata=metadata, timeout=CALL_SECONDS)
            if not answer.success or answer.repeated_upload:
                raise RuntimeError(f"an upload was not accepted: {answer.message}")
            latencies.append((time.perf_counter() - began) * 1e3)

    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _, stub in zip(range(order["in_flight"]), itertools.cycle(stubs), strict=False):
                group.create_task(work(stub))
        taken, cpu = time.perf_counter() - began, time.process_time() - cpu
    finally:
        for channel in channels:
            await channel.close()
    times = spread(latencies)
    return {
        "per_second": times.n / taken,
        "median_ms": times.median,
        "p99_ms": times.p99,
        "cpu_ms": cpu * 1e3 / times.n,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(upload_all(json.load(sys.stdin))), sys.stdout)
