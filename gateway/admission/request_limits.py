"""How many calls of each kind an account, and an address, may make in a minute.

Counted in this process, so a call costs no round trip and a bound holds while Redis is away. Gateways tell
each other every second what was used (see request_sync), and so the bound is one for all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial

from gateway.admission.arrival import Arrival
from gateway.auth.tokens import CallerIdentity
from nodepool.domain.accounts.token_buckets import Buckets
from nodepool.domain.errors import RateLimitedError
from nodepool.domain.limit_names import LimitName
from nodepool.domain.nodes.push_addresses import is_within
from nodepool.settings import Settings

_MOST_KEYS = 20_000
# Of a stream's messages those that carry next to nothing count: each costs about as much as a call.
_SMALL_MESSAGE_BYTES = 1 << 10
_SMALL_MESSAGES_PER_MINUTE = 6000
# A part of a minute's submits that one refused package costs: who sends only such ones is soon told to wait.
_REFUSED_SHARE = 0.1


class CallKind(StrEnum):
    READ = "read"
    FETCH = "fetch"
    WATCH = "watch"
    CHANGE = "change"
    SUBMIT = "submit"
    PASSWORD = "password"  # noqa: S105
    REGISTRATION = "registration"
    NODE = "node"
    ENTRY = "entry"


_KINDS: Mapping[CallKind, tuple[str, ...]] = {
    CallKind.FETCH: (
        "GetTaskResult", "DownloadResult", "ExplainTask", "GetStatement", "GetAllTasks", "GetNodeList",
        "ListUsers", "ListAdminActs", "GetDiskUse",
        "GetJob", "ListJobs", "ListJobTasks", "ListTasks",
        "ListUserTasks", "ShowUserTask", "ExplainUserTask", "GetUserTaskLogs",
    ),
    CallKind.WATCH: ("WatchTask", "WatchTasks"),
    CallKind.CHANGE: (
        "StopTask", "StopJob", "DeleteTask", "StopTaskExecution", "Transfer", "RefreshToken",
        "SetNodeDraining", "Mint",
        "SetCreditScore", "SetUserBlocked", "ReversePayment", "SetSecret", "RemoveSecret", "StopUserTask",
        "SetNotifyTarget", "RemoveNotifyTarget", "TestNotifyTarget", "ConfirmNotifyTarget",
    ),
    CallKind.SUBMIT: ("UploadTask", "UploadTaskStream", "SubmitArray", "SubmitFlow", "ExecuteTask"),
    CallKind.PASSWORD: ("ChangePassword",),
    CallKind.REGISTRATION: ("RegisterWorkerNode", "EnrollAgent", "DeregisterNode"),
    CallKind.NODE: (
        "ClaimAttempt", "FetchInput", "AppendOutput", "FinishAttempt", "ReportStatus",
        "StoreOutput", "StoreLogs",
        "StoreResult", "ReturnTaskResult", "TaskCompleted", "ReportOutput", "ReportRunningStatus",
    ),
    CallKind.ENTRY: ("Login", "Register"),
}  # fmt: skip
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_WORDS: Mapping[CallKind, str] = {
    CallKind.READ: "reading calls",
    CallKind.FETCH: "calls for results, lists and explanations",
    CallKind.WATCH: "calls to watch tasks",
    CallKind.CHANGE: "calls that change something",
    CallKind.SUBMIT: "uploads of tasks",
    CallKind.PASSWORD: "changes of password",
    CallKind.REGISTRATION: "registrations of nodes",
    CallKind.NODE: "calls of nodes",
    CallKind.ENTRY: "logins and registrations",
}


def kind_of(method: str) -> CallKind:
    """Of a method's full name; what is not named above only reads."""
    return _KIND_OF.get(method.rpartition("/")[2], CallKind.READ)


@dataclass(frozen=True, slots=True)
class BucketUse:
    """What was used of a bucket in this process since it was asked last."""

    key: str
    per_minute: int
    amount: float


class RequestLimits:
    """Thread-safe. Every check may raise RateLimitedError, with when to try again."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_account: dict[CallKind, int] = {
            CallKind.READ: settings.reads_per_minute,
            CallKind.FETCH: settings.fetches_per_minute,
            CallKind.WATCH: settings.watches_per_minute,
            CallKind.CHANGE: settings.changes_per_minute,
            CallKind.SUBMIT: settings.submits_per_minute,
            CallKind.PASSWORD: settings.password_changes_per_minute,
            CallKind.REGISTRATION: settings.node_registrations_per_minute,
            CallKind.NODE: settings.node_calls_per_minute,
            CallKind.ENTRY: settings.logins_per_minute_per_address,
        }
        self._per_address = settings.calls_per_minute_per_address
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets = Buckets(_MOST_KEYS)
        self._used: dict[str, BucketUse] = {}
        self._exempt = lru_cache(maxsize=4096)(partial(is_within, networks=settings.trusted_address_networks))

    async def gate(self, arrival: Arrival) -> None:
        """Asked of every call before its body is read."""
        self.check_address(arrival.method, arrival.address)
        if arrival.identity is not None:
            self.check_account(arrival.method, arrival.identity)
        else:
            self.check_nobody(arrival.method, arrival.address)

    def pause_after(self, arrival: Arrival, size_bytes: int) -> float:
        """How many seconds the stream's next message waits, for this one was small and there are many."""
        if size_bytes >= _SMALL_MESSAGE_BYTES:
            return 0.0
        who = f"user:{arrival.identity.user_id}" if arrival.identity else f"address:{arrival.address}"
        with self._lock:
            key, most = f"{who}:messages", _SMALL_MESSAGES_PER_MINUTE
            seconds = self._buckets.take(key, most, self._clock())
            if seconds:  # it came already: the next one waits for it, too
                self._buckets.charge(key, most, self._clock(), 1.0)
            return seconds

    def check_address(self, method: str, address: str) -> None:
        if self._exempt(address):
            return
        self._take(f"address:{address}", self._per_address, "calls", "from your address")
        if kind_of(method) is CallKind.ENTRY:
            most, key = self._per_account[CallKind.ENTRY], f"address:{address}:{CallKind.ENTRY}"
            self._take(key, most, _WORDS[CallKind.ENTRY], "from your address")

    def check_nobody(self, method: str, address: str) -> None:
        """Of who shows no token, who is an address."""
        kind = kind_of(method)
        if kind is not CallKind.ENTRY and not self._exempt(address):
            most = self._per_account[kind]
            self._take(
                f"address:{address}:{kind}", most, f"{_WORDS[kind]} without a token", "from your address"
            )

    def check_account(self, method: str, identity: CallerIdentity) -> None:
        kind = kind_of(method)
        most = self._per_account[kind]
        self._take(f"user:{identity.user_id}:{kind}", most, _WORDS[kind], "of your account")

    def refused_package(self, identity: CallerIdentity) -> None:
        """Looking at it cost the pool much, and it is not paid for."""
        most = self._per_account[CallKind.SUBMIT]
        key = f"user:{identity.user_id}:{CallKind.SUBMIT}"
        with self._lock:
            self._buckets.charge(key, most, self._clock(), _REFUSED_SHARE * most)
            self._note(key, most, _REFUSED_SHARE * most)

    def used(self) -> list[BucketUse]:
        """What was used since this was asked last."""
        with self._lock:
            used, self._used = self._used, {}
        return list(used.values())

    def used_elsewhere(self, uses: Iterable[BucketUse]) -> None:
        """By other gateways, of the same buckets."""
        with self._lock:
            for use in uses:
                self._buckets.charge(use.key, use.per_minute, self._clock(), use.amount)

    def _take(self, key: str, per_minute: int, words: str, whose: str) -> None:
        with self._lock:
            seconds = self._buckets.take(key, per_minute, self._clock())
            if not seconds:
                self._note(key, per_minute, 1.0)
                return
        raise RateLimitedError(
            f"too many {words} {whose}: {per_minute} a minute are allowed; "
            f"try again in {seconds:.1f} seconds",
            retry_after_seconds=seconds,
            limit=LimitName.CALLS_PER_MINUTE,
        )

    def _note(self, key: str, per_minute: int, amount: float) -> None:
        noted = self._used.get(key)
        if noted is None and len(self._used) >= _MOST_KEYS:
            return
        self._used[key] = BucketUse(key, per_minute, amount + (noted.amount if noted else 0.0))
