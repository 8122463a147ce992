"""A gateway for tests of the agent alone: the protocol's messages for real, behind them a few dictionaries.

It keeps no rules. Broker users, queue and assigned list are those of a real Valkey.
"""

# ruff: noqa: N802  the protocol's names

from __future__ import annotations

import hashlib
import io
import json
import secrets
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from celery import Celery
from kombu import Exchange, Queue

from nodepool.domain.ids import broker_user
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from tests.support.valkey import TestValkey

CHUNK = 64 << 10


def package_of(files: Mapping[str, str] | bytes) -> bytes:
    if isinstance(files, bytes):
        return files
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            # Without the time of its making: the same files are the same package, whenever they are sent.
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


@dataclass(slots=True)
class ScriptedAttempt:
    attempt_id: str
    package: bytes
    spec: dict[str, Any] = field(default_factory=dict)
    claims: int = 0
    output: bytearray = field(default_factory=bytearray)
    ends: list[pb.AttemptEnd] = field(default_factory=list)
    result: bytes = b""
    stop_requested: bool = False
    stale: bool = False

    @property
    def end(self) -> pb.AttemptEnd | None:
        return self.ends[0] if self.ends else None

    @property
    def outcome(self) -> str:
        return (
            pb.AttemptOutcome.Name(self.ends[0].outcome).removeprefix("ATTEMPT_OUTCOME_") if self.ends else ""
        )

    def result_text(self, name: str) -> str:
        with zipfile.ZipFile(io.BytesIO(self.result)) as archive:
            return archive.read(name).decode()


class ScriptedGateway(rpc.UserServiceServicer, rpc.NodeManagerServiceServicer):
    """`refuse_with`, when set, is the status of every call. Times and paces are those of tests."""

    def __init__(self, valkey: TestValkey, acl: Callable[[str], str], **enrolment: Any) -> None:
        self.valkey = valkey
        self.acl = acl
        self.enrolment = enrolment
        self.attempts: dict[str, ScriptedAttempt] = {}
        self.calls: list[str] = []
        self.tokens: set[str] = set()
        self.registrations: list[pb.RegisterWorkerNodeRequest] = []
        self.reports: list[pb.ReportAgentRequest] = []
        self.refuse_with: grpc.StatusCode | None = None
        self.password = secrets.token_hex(8)
        self.credentials: grpc.ServerCredentials | None = None
        self._server: grpc.Server | None = None
        self.port = 0
        self.broker_url = valkey.url_for
        self._lock = threading.Lock()
        self._celery = Celery("scripted", set_as_current=False, fixups=[])
        self._celery.conf.update(
            broker_url=valkey.url,
            task_create_missing_queues=False,
            broker_transport_options={"ack_emulation": False, "priority_steps": [0]},
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        rpc.add_UserServiceServicer_to_server(self, server)
        rpc.add_NodeManagerServiceServicer_to_server(self, server)
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self.credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait(60)
            self._server = None

    def close(self) -> None:
        self.stop()
        self._celery.close()

    # -- the pool's side -----------------------------------------------------------------------------
    def attempt(self, attempt_id: str, files: Mapping[str, str] | bytes, **spec: Any) -> ScriptedAttempt:
        attempt = ScriptedAttempt(attempt_id, package_of(files), spec)
        self.attempts[attempt_id] = attempt
        return attempt

    def assign(self, node_id: str, attempt_id: str, *, stop: bool = False) -> None:
        value = json.dumps({"at": time.time(), "stop": stop})
        self.valkey.admin.hset(f"node:{node_id}:assigned", attempt_id, value)

    def unassign(self, node_id: str, attempt_id: str) -> None:
        self.valkey.admin.hdel(f"node:{node_id}:assigned", attempt_id)

    def hint(self, node_id: str, attempt_id: str, task: str = "worker_agent.execute") -> None:
        name = f"node.{node_id}"
        queue = Queue(name, Exchange("", type="direct"), routing_key=name, no_declare=True)
        self._celery.send_task(task, args=[attempt_id], queue=queue, ignore_result=True)

    def send(
        self, node_id: str, attempt_id: str, files: Mapping[str, str] | bytes, **spec: Any
    ) -> ScriptedAttempt:
        attempt = self.attempt(attempt_id, files, **spec)
        self.assign(node_id, attempt_id)
        self.hint(node_id, attempt_id)
        return attempt

    def report(self, node_id: str) -> dict[str, Any]:
        return json.loads(self.valkey.admin.get(f"node:{node_id}:report") or "{}")

    # -- the protocol's side -------------------------------------------------------------------------
    def _check(self, context: grpc.ServicerContext, name: str) -> None:
        self.calls.append(name)
        if self.refuse_with is not None:
            context.abort(self.refuse_with, "as the test says")
        shown = dict(context.invocation_metadata()).get("authorization", "")
        if shown.removeprefix("Bearer ") not in self.tokens:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")

    def _current(self, context: grpc.ServicerContext, attempt_id: str) -> ScriptedAttempt:
        attempt = self.attempts.get(attempt_id)
        if attempt is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such attempt")
        if attempt.stale:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "given away")
        return attempt

    def Login(self, request, context):
        self.calls.append("Login")
        if request.password != self.password:
            return pb.LoginResponse(success=False, message="wrong name or password")
        token = secrets.token_hex(8)
        self.tokens.add(token)
        return pb.LoginResponse(success=True, token=token, expires_at=int(time.time()) + 3600)

    def RefreshToken(self, request, context):
        self._check(context, "RefreshToken")
        return self.Login(pb.LoginRequest(password=self.password), context)

    def RegisterWorkerNode(self, request, context):
        self._check(context, "RegisterWorkerNode")
        self.registrations.append(request)
        return pb.StatusResponse(success=True)

    def EnrollAgent(self, request, context):
        self._check(context, "EnrollAgent")
        node_id, user, password = request.node_id, broker_user(request.node_id), secrets.token_hex(16)
        admin = self.valkey.admin
        admin.execute_command(
            "ACL", "SETUSER", user, "reset", "on", f">{password}", *split_rules(self.acl(node_id))
        )
        return pb.EnrollAgentResponse(
            success=True,
            broker_url=self.broker_url(user, password),
            queue=f"node.{node_id}",
            report_key=f"node:{node_id}:report",
            assigned_key=f"node:{node_id}:assigned",
            control_exchange=f"ctl.{node_id}",
            event_exchange=f"celeryev/{node_id}",
            **{**_TERMS, **self.enrolment},
        )

    def ReportAgent(self, request, context):
        """What is neither stale nor ended is the node's."""
        self._check(context, "ReportAgent")
        self.reports.append(request)
        live = [it for it in self.attempts.values() if not it.stale and not it.ends]
        return pb.ReportAgentResponse(
            heard=True,
            attempts=[
                pb.AssignedAttempt(attempt_id=it.attempt_id, stop_requested=it.stop_requested) for it in live
            ],
        )

    def SetNodeDraining(self, request, context):
        self._check(context, "SetNodeDraining")
        return pb.StatusResponse(success=True)

    def DeregisterNode(self, request, context):
        self._check(context, "DeregisterNode")
        return pb.StatusResponse(success=True)

    def ClaimAttempt(self, request, context) -> Iterator[pb.ClaimAttemptResponse]:
        self._check(context, "ClaimAttempt")
        attempt = self._current(context, request.attempt_id)
        attempt.claims += 1
        sha256 = hashlib.sha256(attempt.package).hexdigest()
        follows = sha256 not in request.cached_sha256
        spec = pb.AttemptSpec(
            attempt_id=attempt.attempt_id,
            task_id=attempt.attempt_id.rpartition(":")[0],
            package_sha256=sha256,
            package_bytes=len(attempt.package),
            package_follows=follows,
            stop_requested=attempt.stop_requested,
            **{"max_run_seconds": 60, **attempt.spec},
        )
        yield pb.ClaimAttemptResponse(spec=spec)
        for offset in range(0, len(attempt.package) if follows else 0, CHUNK):
            yield pb.ClaimAttemptResponse(package_chunk=attempt.package[offset : offset + CHUNK])

    def AppendOutput(self, request, context):
        self._check(context, "AppendOutput")
        attempt = self._current(context, request.attempt_id)
        with self._lock:
            attempt.output += request.data[max(0, len(attempt.output) - request.offset) :]
            return pb.AppendOutputResponse(
                next_offset=len(attempt.output), stop_requested=attempt.stop_requested
            )

    def FinishAttempt(self, request_iterator, context):
        self._check(context, "FinishAttempt")
        end = next(request_iterator).end
        result = b"".join(message.result_chunk for message in request_iterator)
        attempt = self._current(context, end.attempt_id)
        with self._lock:
            attempt.output += end.output_tail[max(0, len(attempt.output) - end.output_offset) :]
            attempt.result = result
            attempt.ends.append(end)
        self.unassign(end.node_id, end.attempt_id)
        return pb.FinishAttemptResponse(success=True)


_TERMS = {
    "events_enabled": True,
    "report_period_seconds": 0.5,
    "lease_seconds": 3.0,
    "default_image": "none",
    "max_output_bytes": 1 << 20,
    "max_result_bytes": 16 << 20,
    "max_workdir_bytes": 64 << 20,
    "max_unpacked_bytes": 64 << 20,
    "max_package_entries": 1000,
    "pids_limit": 64,
    "tmpfs_bytes": 16 << 20,
}


def split_rules(acl: str) -> list[str]:
    """Splits at blanks outside of parentheses: a selector is one argument."""
    rules, depth, current = [], 0, ""
    for character in acl + " ":
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            if current:
                rules.append(current)
            current = ""
        else:
            current += character
    return rules
