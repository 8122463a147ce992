"""Begins the containers that are kept warm. Knows not what becomes of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from worker_agent.runners import warm_line
from worker_agent.runners.base import RunSpec
from worker_agent.runners.container_run import ENGINE_ERRORS, close_stream, unlimited
from worker_agent.runners.cpu_shares import ContainerUsers
from worker_agent.runners.sandbox import WORK, EngineFacts, name_slug, warm_options
from worker_agent.runners.warm_container import WarmContainer
from worker_agent.runners.warm_line import LineError
from worker_agent.runners.warm_pool import NotFitError
from worker_agent.runners.warm_rules import SandboxUse

_GREET_SECONDS = 30.0
_ATTACH = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}


class WarmMaker:
    def __init__(
        self,
        client: docker.APIClient,
        node_id: str,
        engine: EngineFacts,
        users: ContainerUsers,
        user_of: dict[str, int],
        volumes: Callable[[str], tuple[str, ...]],
        create: Callable[[dict[str, Any], str], str],
    ) -> None:
        """`user_of` is told whose id a container has, for its removal to free it."""
        self._client = client
        self._node_id = node_id
        self._engine = engine
        self._users = users
        self._user_of = user_of
        self._volumes = volumes
        self._create = create

    def make(self, use: SandboxUse, slot: Path) -> WarmContainer:
        """It has begun, and waits. Raises NotFitError, and OSError when the engine does not do it now."""
        try:
            volumes = self._volumes(use.kind.image)
            if any(volume.startswith(f"{WORK}/") for volume in volumes):
                raise NotFitError(f"it has a volume below {WORK}")
            container = self._created(use, slot, volumes)
        except ImageNotFound as error:
            raise NotFitError("it is not there") from error
        except ENGINE_ERRORS as error:
            raise OSError(str(error)) from error
        try:
            return self._begun(container, use, slot)
        except BaseException as error:
            with contextlib.suppress(*ENGINE_ERRORS):
                self._client.remove_container(container, force=True, v=True)
            if (uid := self._user_of.pop(container, None)) is not None:
                self._users.release(uid)
            if isinstance(error, ENGINE_ERRORS):
                raise OSError(str(error)) from error
            raise

    def _created(self, use: SandboxUse, slot: Path, volumes: tuple[str, ...]) -> str:
        uid = self._users.acquire() if os.geteuid() == 0 else None
        user = f"{uid}:{uid}" if uid is not None else f"{os.geteuid()}:{os.getegid()}"
        try:
            if uid is not None:
                os.chown(slot, uid, uid)
            options = warm_options(
                self._spec(use, slot), warm_line.BOOT, user=user, engine=self._engine, volumes=volumes
            )
            container = self._create(options, f"hivemind-{name_slug(self._node_id)}-warm-{slot.name}")
        except BaseException:
            if uid is not None:
                self._users.release(uid)
            raise
        if uid is not None:
            self._user_of[container] = uid
        return container

    def _begun(self, container: str, use: SandboxUse, slot: Path) -> WarmContainer:
        stream = unlimited(self._client.attach_socket(container, _ATTACH))
        try:
            self._client.start(container)
            warm = WarmContainer(self._client, container, stream, slot, self._user_of.get(container), use)
            if not warm.greet(_GREET_SECONDS):
                # One without Python 3.8 or later has ended; a machine that is too busy has not.
                if warm.is_quiet():
                    raise OSError("it has not begun in time")
                raise NotFitError("its Python cannot be kept warm")
        except LineError as error:
            close_stream(stream)
            raise NotFitError(str(error)) from error
        except BaseException:
            close_stream(stream)
            raise
        return warm

    def _spec(self, use: SandboxUse, slot: Path) -> RunSpec:
        kind, limits = use.kind, use.limits
        return RunSpec(
            attempt_id="",
            task_id="",
            node_id=self._node_id,
            work_dir=slot,
            entry="main.py",
            memory_bytes=limits.memory_bytes,
            cpus=limits.cpus,
            gpu=kind.gpu,
            image=kind.image,
            network=kind.network,
            max_run_seconds=0,
            max_workdir_bytes=kind.max_workdir_bytes,
            tmpfs_bytes=kind.tmpfs_bytes,
            pids_limit=kind.pids_limit,
        )
