"""Another user during an attack: asks for the balance again and again, and notes the slowest answer.

Comes from another address than the attackers, as it would outside of this machine: through a relay that
is bound to 127.0.0.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import grpc

from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

OWN_ADDRESS = "127.0.0.2"
PERIOD_SECONDS = 0.05
ANSWER_SECONDS = 30.0
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Seen:
    answers: int
    slowest_seconds: float
    refused: int


def live(address: str, username: str, token: str, pipe: Connection) -> None:
    """Says True when it has had its first answer, and Seen when it is told to stop."""
    relay = _Relay(address)
    answers, refused, slowest = 0, 0, 0.0
    with grpc.insecure_channel(relay.address) as channel:
        stub = rpc.UserServiceStub(channel)
        ask = pb.GetBalanceRequest(username=username, token=token)
        stub.GetBalance(ask, timeout=ANSWER_SECONDS)
        pipe.send(True)
        while not pipe.poll(PERIOD_SECONDS):
            began = time.monotonic()
            try:
                stub.GetBalance(ask, timeout=ANSWER_SECONDS)
                answers += 1
            except grpc.RpcError:
                refused += 1
            slowest = max(slowest, time.monotonic() - began)
    pipe.send(Seen(answers, slowest, refused))


class _Relay:
    """Listens on loopback and goes on from another address of it. Ends with its process."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._ready = threading.Event()
        self.address = ""
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, OWN_ADDRESS, 0)
        self.address = f"{OWN_ADDRESS}:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await server.serve_forever()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port, local_addr=(OWN_ADDRESS, 0))
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
