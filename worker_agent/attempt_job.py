"""What an attempt is to run: as the pool says it, as far as this node gives that. Knows no link."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.environment_names import check_environment_names
from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.domain.tasks.run_inputs import check_bounds
from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.execution import Job, RunLimits, memory_bytes
from worker_agent.inputs import RunInput
from worker_agent.runners.base import RunRefusedError, SandboxReuse

_MOST_IDLE_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTerms:
    """What the pool allows on this node; from the enrolment."""

    limits: RunLimits
    default_image: str
    allowed_images: frozenset[str]
    network_allowed: bool


def job_of(
    spec: pb.AttemptSpec,
    terms: EnrolmentTerms,
    *,
    attempt_id: str,
    node_id: str,
    owner_only: bool,
    cpus: float,
    inputs: Sequence[RunInput] = (),
) -> Job:
    """Raises RunRefusedError for what this node does not give: the pool knows, and should not have sent it;
    whoever sent it does not decide."""
    if owner_only and not spec.of_node_owner:
        raise RunRefusedError(
            "this node runs its owner's tasks only: others' could read its files", ReasonCode.CANNOT_GIVE
        )
    image = spec.image or terms.default_image
    if image not in terms.allowed_images:
        raise RunRefusedError(f"the image {image!r} is not one that this pool allows", ReasonCode.CANNOT_GIVE)
    if spec.network and not terms.network_allowed:
        raise RunRefusedError("this pool does not give tasks the network", ReasonCode.CANNOT_GIVE)
    return Job(
        attempt_id=attempt_id,
        task_id=spec.task_id,
        node_id=node_id,
        memory_bytes=memory_bytes(spec.memory_gb, spec.memory_mb),
        cpus=cpus,
        gpu=spec.gpu_score > 0 or spec.gpu_memory_gb > 0,
        image=image,
        network=spec.network,
        max_run_seconds=spec.max_run_seconds,
        arguments=tuple(spec.arguments),
        environment=_environment(spec),
        secrets=_secrets(spec),
        inputs=inputs,
        again=_reuse(spec),
    )


def _reuse(spec: pb.AttemptSpec) -> SandboxReuse | None:
    """An older pool says nothing, and means a sandbox for each."""
    seconds = spec.sandbox_idle_seconds
    if not spec.sandbox_owner or spec.sandbox_tasks < 2 or not math.isfinite(seconds):
        return None
    return SandboxReuse(spec.sandbox_owner, spec.sandbox_tasks, min(seconds, _MOST_IDLE_SECONDS))


def _environment(spec: pb.AttemptSpec) -> dict[str, str]:
    """Not let near those who set up the sandbox unseen."""
    environment = dict(spec.environment)
    with _refusing():
        check_environment_names(environment, pools_too=True)
        check_bounds(spec.arguments, environment, pools_too=True)
    return environment


def _secrets(spec: pb.AttemptSpec) -> dict[str, str]:
    """The same. No error's words have a value."""
    secrets = dict(spec.secrets)
    with _refusing():
        check_environment_names(secrets)
        check_bounds((), secrets, pools_too=True)
    return secrets


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise RunRefusedError(f"this node cannot give the task: {error}", ReasonCode.CANNOT_GIVE) from error
