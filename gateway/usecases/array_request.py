"""An array as it comes: first what its tasks have in common, then their items and the package, in pieces.

What can be refused is refused as soon as it is known, before more of it is kept.
"""

from __future__ import annotations

import hashlib
from typing import IO

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import submit_task
from gateway.usecases.announced_package import Announced
from gateway.usecases.incoming_package import IncomingPackage
from gateway.usecases.submit_array import ArrayRequest
from nodepool import wire
from nodepool.domain.errors import InvalidInputError, TooLargeError
from nodepool.domain.ids import check_job_id
from nodepool.domain.tasks.arrays import MAX_ITEMS_BYTES, ArrayInputs, check_count
from nodepool.domain.tasks.new_task import RequestedTask
from nodepool.protocol import nodepool_pb2 as pb


class IncomingArray:
    """For one call. `file` takes the package, and belongs to the caller."""

    def __init__(self, gateway: Gateway, owner: CallerIdentity, file: IO[bytes]) -> None:
        self._gateway = gateway
        self._owner = owner
        self._package = IncomingPackage(file)
        self._items = bytearray()
        self._spec: pb.ArraySpec | None = None
        self._columns: RequestedTask | None = None
        self._inputs: ArrayInputs | None = None
        self._announced = Announced(0, "")

    async def take(self, message: pb.SubmitArrayRequest) -> None:
        """Raises InvalidInputError, TooLargeError and StorageFullError."""
        part = message.WhichOneof("part")
        if self._spec is None:
            if part != "array":
                raise InvalidInputError("the first message must be the array")
            self._begin(message.array)
        elif part == "items":
            if len(self._items) + len(message.items) > MAX_ITEMS_BYTES:
                raise TooLargeError(
                    f"the items of an array take at most {MAX_ITEMS_BYTES} bytes: put long values into files "
                    "of the package"
                )
            self._items += message.items
        elif part == "zip_chunk":
            submit_task.check_size(self._gateway, self._package.size + len(message.zip_chunk))
            self._announced.take(message.zip_chunk)
            await self._gateway.run(self._package.add, message.zip_chunk)
        else:
            raise InvalidInputError("after the first message only pieces of items and package may come")

    def _begin(self, spec: pb.ArraySpec) -> None:
        check_job_id(spec.job_id)
        check_count(spec.tasks)
        task = spec.task
        if task.task_zip or task.task_id:
            raise InvalidInputError("the task of an array has no id and no package: they come apart")
        if task.replicas > 1:
            raise InvalidInputError(
                "tasks of an array run once each: send those whose results are to be compared one by one"
            )
        self._inputs = ArrayInputs.of(spec.names, wire.inputs_from_wire(task))
        submit_task.check_size(self._gateway, task.package_bytes)
        self._announced = Announced(task.package_bytes, task.package_sha256)
        named = pb.UploadTaskRequest()
        named.CopyFrom(task)
        named.task_id = spec.job_id
        self._columns = submit_task.requested_task(self._gateway, named)
        self._spec = spec

    def whole(self) -> tuple[ArrayRequest, IncomingPackage]:
        """All has come. Raises InvalidInputError where it has not."""
        if self._spec is None or self._columns is None or self._inputs is None:
            raise InvalidInputError("the first message must be the array")
        self._announced.check_whole()
        lines = self._items.count(b"\n")
        if lines != self._spec.tasks or not self._items.endswith(b"\n"):
            raise InvalidInputError(
                f"{lines} lines of items came, and not the {self._spec.tasks} of the array; nothing was kept"
            )
        spec = self._spec.SerializeToString(deterministic=True)
        request = ArrayRequest(
            job_id=self._spec.job_id,
            columns=self._columns,
            inputs=self._inputs,
            tasks=self._spec.tasks,
            max_cpt=self._spec.max_cpt,
            items=bytes(self._items),
            spec_digest=hashlib.sha256(spec).digest(),
        )
        return request, self._package
