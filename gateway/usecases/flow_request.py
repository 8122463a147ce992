"""A flow as it comes: first what its steps are, then the items of its arrays and its packages, in pieces.

What can be refused is refused as soon as it is known, before more of it is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from gateway.context import Gateway
from gateway.usecases import submit_task
from gateway.usecases.announced_package import Announced
from gateway.usecases.incoming_package import IncomingPackage
from nodepool import wire
from nodepool.domain.errors import InvalidInputError, TooLargeError
from nodepool.domain.ids import check_job_id
from nodepool.domain.notifications.targets import wanted_targets
from nodepool.domain.tasks.arrays import MAX_ITEMS_BYTES, ArrayInputs, check_count, item_line
from nodepool.domain.tasks.dependencies import to_lines
from nodepool.domain.tasks.flows import StepOrder, check_steps, check_tasks, result_values, used_results
from nodepool.domain.tasks.labels import check_labels, check_name
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.domain.tasks.run_inputs import mapping_to_json
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedStep:
    """`items` are lines of its tasks; of a step that is one task there is one line, with the index 0."""

    order: StepOrder
    columns: RequestedTask
    inputs: ArrayInputs
    results: tuple[str, ...]  # the steps whose results its runs are given
    package: int  # its number among the packages of the flow
    tasks: int
    is_array: bool
    items: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRequest:
    job_id: str
    name: str
    labels: str  # JSON
    steps: Sequence[RequestedStep]
    tasks: int
    max_cpt: int
    notify: str  # targets that are told of its end, one a line
    digest: str


class IncomingFlow:
    """For one call. Files that take packages belong to the caller's stack."""

    def __init__(self, gateway: Gateway, stack: ExitStack) -> None:
        self._gateway, self._stack = gateway, stack
        self._spec: pb.FlowSpec | None = None
        self._orders: list[StepOrder] = []
        self._columns: list[RequestedTask] = []
        self._inputs: list[tuple[ArrayInputs, tuple[str, ...]]] = []
        self._items: list[bytearray] = []
        self._packages: list[tuple[Announced, IncomingPackage]] = []

    async def take(self, message: pb.SubmitFlowRequest) -> None:
        """Raises InvalidInputError, TooLargeError and StorageFullError."""
        part = message.WhichOneof("part")
        if self._spec is None:
            if part != "flow":
                raise InvalidInputError("the first message must be the flow")
            self._begin(message.flow)
        elif part == "items":
            self._take_items(message.items)
        elif part == "package":
            await self._take_package(message.package)
        else:
            raise InvalidInputError("after the first message only pieces of items and packages may come")

    def _begin(self, spec: pb.FlowSpec) -> None:
        check_job_id(spec.job_id)
        check_name(spec.name)
        check_labels(dict(spec.labels))
        wanted_targets(spec.notify)
        self._orders = [
            StepOrder(name=step.name, needs=tuple(step.needs), needs_any=tuple(step.needs_any))
            for step in spec.steps
        ]
        check_steps(self._orders, spec.job_id)
        check_tasks({step.name: max(1, step.array_tasks) for step in spec.steps})
        if len(spec.packages) > len(spec.steps):
            raise InvalidInputError("a flow has no more packages than steps")
        for step, order in zip(spec.steps, self._orders, strict=True):
            self._inputs.append(_inputs_of(step, order))
            self._columns.append(self._columns_of(spec, step))
            self._items.append(bytearray(b"" if step.array_tasks else item_line(0).encode()))
        for package in spec.packages:
            submit_task.check_size(self._gateway, package.package_bytes)
            announced = Announced(package.package_bytes, package.package_sha256)
            file = self._stack.enter_context(self._gateway.files.spool())
            self._packages.append((announced, IncomingPackage(file)))
        self._spec = spec

    def _columns_of(self, spec: pb.FlowSpec, step: pb.FlowStep) -> RequestedTask:
        if not 0 <= step.package < len(spec.packages):
            raise InvalidInputError(f"step {step.name!r} has the package {step.package}, which there is not")
        if step.array_tasks:
            check_count(step.array_tasks)
        task = step.task
        if task.task_zip or task.task_id or task.package_bytes or task.package_sha256:
            raise InvalidInputError("the task of a step has no id and no package: they come apart")
        if task.replicas > 1:
            raise InvalidInputError(
                f"step {step.name!r} asks for replicas: tasks of a flow run once each; send those whose "
                "results are to be compared one by one"
            )
        if task.notify and step.array_tasks:
            raise InvalidInputError(
                f"step {step.name!r} is an array, whose tasks are not told of one by one: notify goes to the "
                "whole flow, or to a step that is one task"
            )
        named = pb.UploadTaskRequest()
        named.CopyFrom(task)
        named.task_id = f"{spec.job_id}.{step.name}"
        if not named.name:
            named.name = spec.name
        for key, value in spec.labels.items():
            if key not in named.labels:
                named.labels[key] = value
        return submit_task.requested_task(self._gateway, named)

    def _take_items(self, piece: pb.FlowPiece) -> None:
        spec = self._spec
        if spec is None or not 0 <= piece.number < len(self._items):
            raise InvalidInputError(f"items came for step {piece.number}, which there is not")
        if not spec.steps[piece.number].array_tasks:
            name = spec.steps[piece.number].name
            raise InvalidInputError(f"items came for step {name!r}, which is one task")
        if sum(map(len, self._items)) + len(piece.data) > MAX_ITEMS_BYTES:
            raise TooLargeError(
                f"the items of a flow take at most {MAX_ITEMS_BYTES} bytes: put long values into files of "
                "packages"
            )
        self._items[piece.number] += piece.data

    async def _take_package(self, piece: pb.FlowPiece) -> None:
        if not 0 <= piece.number < len(self._packages):
            raise InvalidInputError(f"a piece of package {piece.number} came, which there is not")
        announced, package = self._packages[piece.number]
        submit_task.check_size(self._gateway, package.size + len(piece.data))
        announced.take(piece.data)
        await self._gateway.run(package.add, piece.data)

    def whole(self) -> tuple[FlowRequest, list[IncomingPackage]]:
        """All has come. Raises InvalidInputError where it has not."""
        spec = self._spec
        if spec is None:
            raise InvalidInputError("the first message must be the flow")
        for announced, _ in self._packages:
            announced.check_whole()
        steps = [self._step(spec, number) for number in range(len(spec.steps))]
        packages = [package for _, package in self._packages]
        request = FlowRequest(
            job_id=spec.job_id,
            name=spec.name,
            labels=mapping_to_json(dict(spec.labels)),
            steps=steps,
            tasks=sum(step.tasks for step in steps),
            max_cpt=spec.max_cpt,
            notify=to_lines(wanted_targets(spec.notify)),
            digest=_digest(spec, steps, packages),
        )
        return request, packages

    def _step(self, spec: pb.FlowSpec, number: int) -> RequestedStep:
        told, items = spec.steps[number], self._items[number]
        tasks, lines = told.array_tasks or 1, items.count(b"\n")
        if lines != tasks or not items.endswith(b"\n"):
            raise InvalidInputError(
                f"{lines} lines of items came for step {told.name!r}, and not {tasks}; nothing was kept"
            )
        inputs, results = self._inputs[number]
        return RequestedStep(
            order=self._orders[number],
            columns=self._columns[number],
            inputs=inputs,
            results=results,
            package=told.package,
            tasks=tasks,
            is_array=bool(told.array_tasks),
            items=bytes(items),
        )


def _inputs_of(step: pb.FlowStep, order: StepOrder) -> tuple[ArrayInputs, tuple[str, ...]]:
    given = wire.inputs_from_wire(step.task)
    results = used_results([*given.arguments, *given.environment.values()], order)
    if step.names and not step.array_tasks:
        raise InvalidInputError(f"step {step.name!r} has names of values and is no array")
    return ArrayInputs.of(step.names, given, result_values(results)), results


def _digest(spec: pb.FlowSpec, steps: Sequence[RequestedStep], packages: Sequence[IncomingPackage]) -> str:
    whole = hashlib.sha256(spec.SerializeToString(deterministic=True))
    for step in steps:
        whole.update(hashlib.sha256(step.items).digest())
    for package in packages:
        whole.update(package.sha256.encode())
    return whole.hexdigest()
