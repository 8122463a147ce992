"""Makes sure that HIVEMIND_USERNAME has an account at HIVEMIND_GATEWAY which HIVEMIND_PASSWORD opens."""

from __future__ import annotations

import os
import sys

import grpc

from nodepool import hardening
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

CALL_SECONDS = 30.0


def main() -> int:
    hardening.harden()
    name, password = os.environ["HIVEMIND_USERNAME"], os.environ["HIVEMIND_PASSWORD"]
    with grpc.insecure_channel(os.environ["HIVEMIND_GATEWAY"]) as channel:
        users = rpc.UserServiceStub(channel)
        try:
            users.Register(
                pb.RegisterRequest(username=name, password=password),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                print(f"account: {error.details()}", file=sys.stderr)
                return 1
        answer = users.Login(pb.LoginRequest(username=name, password=password), timeout=CALL_SECONDS)
    print(f"account: {name}: {'it is there' if answer.success else answer.message}")
    return 0 if answer.success else 1


if __name__ == "__main__":
    sys.exit(main())
