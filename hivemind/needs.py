"""What a task asks of the pool, checked before anything is sent, and how it is said to it.

Knows the protocol's messages; knows no connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from hivemind.errors import InvalidInputError
from nodepool.domain.capabilities import AFTER_OTHERS, Capability
from nodepool.domain.errors import InvalidInputError as InvalidError
from nodepool.domain.notifications.targets import wanted_targets
from nodepool.domain.regions import task_region
from nodepool.domain.resources import MAX_AMOUNT, Resources, whole_gibibytes
from nodepool.domain.tasks.dependencies import check_named
from nodepool.domain.tasks.labels import check_labels, check_name
from nodepool.domain.tasks.retries import check_backoff, check_codes, check_retried, check_retries
from nodepool.domain.tasks.run_inputs import RunInputs
from nodepool.domain.tasks.run_secrets import wanted_secrets
from nodepool.domain.tasks.states import MAX_PRIORITY, LocationMode
from nodepool.domain.trust.result_digest import check_patterns
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import (
    check_exclusive,
    gpu_name_from_wire,
    location_mode_from_wire,
    min_trust_from_wire,
    replicas_from_wire,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNeeds:
    """What a task asks of the pool. 0, "" and False ask for nothing.

    Scores in points (1000 = one core of the reference), memory in GiB, or in MiB with `memory_mb`. `location`
    is a region, `image` one of the operator's allow-list, `max_minutes` the longest run. `priority` is 0-9, 9
    first, None the pool's default. `min_trust` (high, normal, low) is the least trusted tier of node that
    will do. `location_mode` says what `location` means: strict, only there, or prefer, after a while
    elsewhere too. `replicas` (1-5) run on nodes of as many owners, and what most agree on is the result;
    `compare_outputs` names the files that are compared (paths or patterns such as out/*.csv), none all of
    them. `take_pending`: a result that the pool checks is given at once, as pending, and not only when it
    stands. `exclusive`: it never runs twice at one moment. A node that is cut off ends it soon, also when the
    pool is away, and does not keep it until somebody answers. `fresh`: its sandbox runs nothing before it and
    nothing after it. `retries`: where its own program fails, it is
    tried so many times more, and each try is paid; `retry_on` names the exit codes after which (128 + S for
    signal S; none: all but 124, the longest run), and `backoff_seconds` the first wait (0: 30), which doubles
    with each try up to an hour. `arguments` go to the entry script and `environment` into the run's
    environment, exactly as they are: no shell reads them. `secrets` are names of secrets that you have set,
    as NAME or NAME=VARIABLE; nodes of low trust that are not your own have them only with
    `secrets_on_low_trust`. `name`, which several tasks may share, and `labels` are for finding tasks again.
    `after` names tasks and jobs of yours whose success it waits for, and `after_any` those whose end, however
    they end. It holds nothing meanwhile, and is stopped where the success cannot come any more. `notify`
    names targets of yours (`set_notify_target`) that are told when it has ended; of an array, when all has.
    """

    cpu_score: int = 0
    memory_gb: int = 0
    memory_mb: int = 0
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    location: str = ""
    gpu_name: str = ""
    image: str = ""
    network: bool = False
    max_minutes: int = 0
    priority: int | None = None
    min_trust: str = ""
    location_mode: str = ""
    replicas: int = 1
    compare_outputs: tuple[str, ...] = ()
    take_pending: bool = False
    exclusive: bool = False
    fresh: bool = False
    retries: int = 0
    retry_on: tuple[int, ...] = ()
    backoff_seconds: int = 0
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()
    secrets_on_low_trust: bool = False
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidInputError for what no pool would take."""
        _check_kinds(self)
        try:
            memory_gb = self.memory_gb or whole_gibibytes(self.memory_mb)
            Resources(self.cpu_score, memory_gb, self.gpu_score, self.gpu_memory_gb, self.memory_mb)
            task_region(self.location)
            gpu_name_from_wire(self.gpu_name)
            min_trust_from_wire(self.min_trust)
            location_mode_from_wire(self.location_mode)
            check_exclusive(exclusive=self.exclusive, replicas=replicas_from_wire(self.replicas))
            check_patterns(self.compare_outputs)
            check_retries(self.retries)
            check_codes(self.retry_on)
            check_backoff(self.backoff_seconds)
            check_retried(retries=self.retries, replicas=self.replicas)
            RunInputs(tuple(self.arguments), self.environment)
            wanted_secrets(self.secrets, self.environment)
            check_name(self.name)
            check_labels(self.labels)
            check_named("", self.after, self.after_any)
            wanted_targets(self.notify)
        except InvalidError as error:
            raise InvalidInputError(str(error)) from error
        if not 0 <= self.max_minutes <= MAX_AMOUNT:
            raise InvalidInputError(f"max_minutes must be 0 to {MAX_AMOUNT}, not {self.max_minutes}")
        if self.priority is not None and not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidInputError(f"priority must be 0 to {MAX_PRIORITY}, not {self.priority}")

    @property
    def has_inputs(self) -> bool:
        """Whether the run is given anything besides its package."""
        return bool(self.arguments or self.environment)

    @property
    def capabilities(self) -> frozenset[str]:
        """What the pool has to know of, and pool and agents to pass on, and older ones would drop."""
        wanted = {
            Capability.INPUTS.value: self.has_inputs,
            Capability.SECRETS.value: bool(self.secrets),
            AFTER_OTHERS: bool(self.after or self.after_any),
        }
        return frozenset(word for word, is_needed in wanted.items() if is_needed)


def _check_kinds(needs: TaskNeeds) -> None:
    """Each field of its kind, which Python itself does not ask for. Raises InvalidInputError."""
    for each in fields(needs):
        value, default = getattr(needs, each.name), _default(each)
        kinds, words = _KINDS[int if default is None else type(default)]
        fits = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
        if not fits and not (value is None and default is None):
            raise InvalidInputError(f"{each.name} must be {words}, not {ascii(value)[:60]}")
    for name in ("arguments", "compare_outputs", "secrets", "after", "after_any", "notify"):
        if not all(isinstance(word, str) for word in getattr(needs, name)):
            raise InvalidInputError(f"{name} must be a list of texts, not {ascii(getattr(needs, name))[:60]}")
    if not all(isinstance(code, int) and not isinstance(code, bool) for code in needs.retry_on):
        raise InvalidInputError(f"retry_on must be a list of exit codes, not {ascii(needs.retry_on)[:60]}")
    for name in ("environment", "labels"):
        for pair in getattr(needs, name).items():
            if not all(isinstance(word, str) for word in pair):
                raise InvalidInputError(f"{name} has {ascii(pair[0])[:60]}: names and values must be text")


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    str: (str, "text"),
    tuple: (list | tuple, "a list"),
    dict: (Mapping, "texts by their names"),
}


def needs_to_wire(needs: TaskNeeds) -> pb.UploadTaskRequest:
    """A request with the needs and nothing else. Priority is only set where the task names one."""
    request = pb.UploadTaskRequest(
        # A pool that does not know the finer one takes the next whole GiB.
        memory_gb=needs.memory_gb or whole_gibibytes(needs.memory_mb),
        memory_mb=needs.memory_mb,
        cpu_score=needs.cpu_score,
        gpu_score=needs.gpu_score,
        gpu_memory_gb=needs.gpu_memory_gb,
        location=needs.location,
        gpu_name=needs.gpu_name,
        image=needs.image,
        network=needs.network,
        max_minutes=needs.max_minutes,
        min_trust=needs.min_trust,
        # Said in full: empty means prefer, as clients mean it that do not know the field.
        location_mode=needs.location_mode or LocationMode.STRICT,
        replicas=needs.replicas,
        compare_outputs=needs.compare_outputs,
        take_pending=needs.take_pending,
        exclusive=needs.exclusive,
        fresh=needs.fresh,
        retries=needs.retries,
        retry_on=needs.retry_on,
        backoff_seconds=needs.backoff_seconds,
        arguments=needs.arguments,
        environment=needs.environment,
        secrets=needs.secrets,
        secrets_on_low_trust=needs.secrets_on_low_trust,
        name=needs.name,
        labels=needs.labels,
        after=needs.after,
        after_any=needs.after_any,
        notify=needs.notify,
    )
    if needs.priority is not None:
        request.priority = needs.priority
    return request
