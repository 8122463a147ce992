"""Runs attempts in containers of the Docker engine that DOCKER_HOST names, or the local one.

What a container may do is decided in `worker_agent.runners.sandbox`. Each engine call costs milliseconds,
so there is one client with a pool of connections, and no call more than a run needs. Images are
never pulled: what is on a node is its operator's choice.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import structlog
from docker.errors import APIError, ImageNotFound, NotFound

from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.tasks.package_rules import REQUIREMENTS
from nodepool.domain.tasks.reason_classes import code_of_words
from nodepool.domain.tasks.reasons import ReasonCode
from worker_agent.runners import warm_line
from worker_agent.runners.base import RunRefusedError, RunSpec, code_of_os_error
from worker_agent.runners.container_run import ENGINE_ERRORS, Attached, ContainerRun, close_stream, unlimited
from worker_agent.runners.cpu_shares import ContainerUsers
from worker_agent.runners.engine_line import engine_host, open_engine
from worker_agent.runners.process import give_tree
from worker_agent.runners.requirements import bootstrap_for
from worker_agent.runners.sandbox import (
    LABEL_ATTEMPT,
    LABEL_NODE,
    Bootstrap,
    EngineFacts,
    container_name,
    container_options,
    secrets_input,
    warm_command,
    warm_environment,
    warm_limits,
)
from worker_agent.runners.warm_container import WarmContainer, WarmTask
from worker_agent.runners.warm_maker import WarmMaker
from worker_agent.runners.warm_pool import WarmOptions, WarmSandboxes
from worker_agent.runners.warm_rules import SandboxLimits, SandboxUse, fits_warm
from worker_agent.runners.watch import Watcher
from worker_agent.trash import remove_tree

log = structlog.get_logger(__name__)

# Not nobody, who may own files on this machine; in the range that systemd leaves unused, below the process
# runner's.
_FIRST_UID, _UIDS = 60_706, 94
_CALL_SECONDS = 60
_PULSE_SECONDS = 5
_CONNECTIONS = 64
_HELPERS = 8
_CONFLICT = 409
_ATTACH = {"stdout": 1, "stderr": 1, "stream": 1}


class DockerRunner:
    name = "docker"

    def __init__(self, node_id: str, warm: WarmOptions | None = None) -> None:
        """Raises RunRefusedError when no engine answers, or when it cannot hold a task to its limits.

        `warm`: containers are kept for the tasks that come next."""
        self._node_id = node_id
        self._users = ContainerUsers(_FIRST_UID, _UIDS, begin_at=zlib.crc32(node_id.encode()))
        self._user_of: dict[str, int] = {}  # of containers that may still be there
        self._client, info = _connect()
        problem = engine_problem(info)
        if problem:
            self._client.close()
            raise RunRefusedError(problem)
        self._engine = EngineFacts(
            cpus=int(info["NCPU"]),
            cpu_quota=bool(info.get("CpuCfsQuota", True)),
            userns_remap=any("name=userns" in option for option in info.get("SecurityOptions") or ()),
        )
        # With a patience of its own: an engine that hangs is as good as none.
        self._pulse = open_engine(
            version=self._client.api_version, timeout_seconds=_PULSE_SECONDS, connections=1
        )
        self._watcher = Watcher("docker-watcher")
        self._unremoved: set[str] = set()
        self._warm_runs: dict[str, str] = {}  # which attempt a warm container runs now
        self._absent_images: set[str] = set()
        self._disks = _engines_disks(info)
        # For what no run waits for: measuring, and removing containers that have ended.
        self._helpers = ThreadPoolExecutor(_HELPERS, "docker-helper")
        self._warm: WarmSandboxes | None = None
        if warm is not None and warm.sandboxes:
            self._keep_warm(warm, info)

    @property
    def isolation(self) -> Isolation:
        return Isolation.CONTAINER

    def prepare(self, spec: RunSpec) -> PreparedContainer | PreparedInWarm:
        if (warm := self._taken(spec)) is not None:
            return PreparedInWarm(self, spec, warm)
        if os.geteuid() != 0:
            return self._prepare(spec, f"{os.geteuid()}:{os.getegid()}")
        uid = self._users.acquire()
        try:
            prepared = self._prepare(spec, f"{uid}:{uid}", uid)
        except BaseException:
            self._users.release(uid)
            raise
        self._user_of[prepared.container] = uid
        return prepared

    def _prepare(self, spec: RunSpec, user: str, uid: int | None = None) -> PreparedContainer:
        bootstrap = bootstrap_for(spec.work_dir)
        for folder in (spec.work_dir, *([bootstrap.host_dir] if bootstrap else [])):
            if uid is not None:
                give_tree(folder, uid, uid)
            folder.chmod(0o700)
        name = container_name(self._node_id, spec.attempt_id)
        try:
            options = container_options(
                spec,
                user=user,
                engine=self._engine,
                bootstrap=bootstrap,
                volumes=self._volumes(spec.image),
            )
            try:
                container = self._create(options, name)
            except APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                self._remove_leftover(name)
                container = self._create(options, name)
        except ENGINE_ERRORS as error:
            if bootstrap is not None:
                remove_tree(bootstrap.host_dir)
            if isinstance(error, ImageNotFound):
                self._absent_images.add(spec.image)
            raise _refusal(error, spec.image) from error
        return PreparedContainer(self, spec, container, bootstrap)

    def reap(self, keep: Collection[str]) -> int:
        """Raises RunRefusedError when the engine does not answer."""
        try:
            found = self._client.containers(all=True, filters={"label": f"{LABEL_NODE}={self._node_id}"})
            ended = 0
            for container in found:
                attempt = container["Labels"].get(LABEL_ATTEMPT) or self._warm_runs.get(container["Id"])
                if attempt not in keep:
                    with contextlib.suppress(NotFound):
                        self._client.remove_container(container["Id"], force=True, v=True)
                        ended += 1
        except ENGINE_ERRORS as error:
            raise _refusal(error, "") from error
        return ended

    @property
    def disks(self) -> tuple[Path, ...]:
        return self._disks

    def has_more_images(self) -> bool:
        found = set()
        for image in list(self._absent_images):
            with contextlib.suppress(*ENGINE_ERRORS):
                self._pulse.inspect_image(image)  # type: ignore[no-untyped-call]
                found.add(image)
        self._absent_images -= found
        if found and self._warm is not None:
            self._warm.try_again()
        return bool(found)

    def problem(self) -> str:
        """Also removes what could not be removed while the engine was away: such a task may go on there."""
        try:
            self._pulse.ping()
        except ENGINE_ERRORS as error:
            return f"the container engine does not answer: {_words(error)}"
        for container in list(self._unremoved):
            self._unremoved.discard(container)
            self._remove(container)
        return ""

    @property
    def waiting(self) -> list[SandboxUse]:
        """The containers that are kept warm now, and run nothing."""
        return [] if self._warm is None else self._warm.waiting

    def close(self) -> None:
        self._watcher.close()
        if self._warm is not None:
            self._warm.close()
        self._helpers.shutdown()
        self._pulse.close()
        self._client.close()

    def _volumes(self, image: str) -> tuple[str, ...]:
        facts = self._client.inspect_image(image)  # type: ignore[no-untyped-call]
        return tuple(facts["Config"].get("Volumes") or ())

    def _create(self, options: dict[str, Any], name: str) -> str:
        created = self._client.create_container_from_config(options, name)  # type: ignore[no-untyped-call]
        return str(created["Id"])

    def _remove_leftover(self, name: str) -> None:
        labels = self._client.inspect_container(name)["Config"]["Labels"] or {}
        if labels.get(LABEL_NODE) == self._node_id:
            self._client.remove_container(name, force=True, v=True)

    def _start(self, prepared: PreparedContainer, on_output: Callable[[bytes], None]) -> ContainerRun:
        try:
            # Before the start, so that no output is lost.
            attach = {**_ATTACH, "stdin": int(bool(prepared.spec.secrets))}
            stream = unlimited(self._client.attach_socket(prepared.container, attach))
            try:
                self._client.start(prepared.container)
            except BaseException:
                close_stream(stream)
                raise
        except ENGINE_ERRORS as error:
            self._discard(prepared)
            raise _refusal(error, prepared.spec.image) from error
        return ContainerRun(
            prepared.spec,
            Attached(self._client, prepared.container, stream, secrets_input(prepared.spec.secrets)),
            on_output,
            self._watcher,
            self._in_background,
            prepared.bootstrap,
            lambda: self._discard(prepared),
        )

    # -- containers that are kept warm ---------------------------------------------------------------
    def _keep_warm(self, options: WarmOptions, info: dict[str, Any]) -> None:
        if not engine_host().startswith("unix:"):
            log.warning("containers are kept warm only on this machine's own engine", action="warm.not_here")
            return
        # Keyrings outlive a process, and only the filter of system calls keeps a task from them.
        filtered = any("name=seccomp" in option for option in info.get("SecurityOptions") or ())
        maker = WarmMaker(
            self._client, self._node_id, self._engine, self._users, self._user_of, self._volumes, self._create
        )
        self._warm = WarmSandboxes(options, maker.make, self._remove, use_again=filtered)
        self._watcher.add(self._warm.tend, 0.0)

    def _taken(self, spec: RunSpec) -> WarmContainer | None:
        if self._warm is None:
            return None
        has_requirements = (spec.work_dir / REQUIREMENTS).is_file()
        if not fits_warm(spec, has_requirements=has_requirements):
            return None
        warm = self._warm.take(spec)
        if warm is None:
            return None
        try:
            if warm.use.limits != SandboxLimits.of(spec):
                self._client.update_container(warm.container, **warm_limits(spec, self._engine))
                warm.use.limits = SandboxLimits.of(spec)
            if warm.uid is not None:
                give_tree(spec.work_dir, warm.uid, warm.uid)
            problem = "" if warm.take_in(spec.work_dir) else "its files cannot be moved there"
        except ENGINE_ERRORS as error:
            problem = _words(error)
        if problem:
            self._warm.remove(warm, problem)
            return None
        self._warm_runs[warm.container] = spec.attempt_id
        return warm

    def _start_in_warm(self, prepared: PreparedInWarm, on_output: Callable[[bytes], None]) -> ContainerRun:
        spec, warm = prepared.spec, prepared.warm
        words, of_script = warm_command(spec)
        task = WarmTask(warm, warm_line.job(words, warm_environment(spec), of_script))

        def clean() -> None:
            assert self._warm is not None  # noqa: S101
            self._warm_runs.pop(warm.container, None)
            self._warm.ended(warm, task, spec)

        return ContainerRun(spec, task, on_output, self._watcher, self._in_background, None, clean)

    def _discard_warm(self, prepared: PreparedInWarm) -> None:
        assert self._warm is not None  # noqa: S101
        self._warm_runs.pop(prepared.warm.container, None)
        self._warm.remove(prepared.warm)

    def _in_background(self, call: Callable[[], None]) -> Future[None]:
        return self._helpers.submit(call)

    def _discard(self, prepared: PreparedContainer) -> None:
        if prepared.bootstrap is not None:
            with contextlib.suppress(OSError):
                remove_tree(prepared.bootstrap.host_dir)
        self._helpers.submit(self._remove, prepared.container)

    def _remove(self, container: str) -> None:
        try:
            with contextlib.suppress(NotFound):
                self._client.remove_container(container, force=True, v=True)
        except ENGINE_ERRORS:
            # Tried again with the next problem(), and found by reap() in the agent's next life.
            self._unremoved.add(container)
            return
        if (uid := self._user_of.pop(container, None)) is not None:
            self._users.release(uid)


@dataclass(frozen=True, slots=True)
class PreparedContainer:
    _runner: DockerRunner
    spec: RunSpec
    container: str
    bootstrap: Bootstrap | None

    def start(self, on_output: Callable[[bytes], None]) -> ContainerRun:
        return self._runner._start(self, on_output)

    def discard(self) -> None:
        self._runner._discard(self)


@dataclass(frozen=True, slots=True)
class PreparedInWarm:
    """Its files are where the container has its working directory."""

    _runner: DockerRunner
    spec: RunSpec
    warm: WarmContainer

    def start(self, on_output: Callable[[bytes], None]) -> ContainerRun:
        return self._runner._start_in_warm(self, on_output)

    def discard(self) -> None:
        self._runner._discard_warm(self)


def engine_problem(info: dict[str, Any]) -> str:
    """Why an engine is not fit for other people's code, or nothing."""
    if info.get("OSType", "linux") != "linux":
        return f"the container engine runs {info['OSType']} containers, not Linux ones"
    if any("name=rootless" in option for option in info.get("SecurityOptions") or ()):
        return "the container engine is rootless: its tasks could not own their working directory"
    missing = [
        word for key, word in (("MemoryLimit", "memory"), ("PidsLimit", "processes")) if not info.get(key)
    ]
    if missing:
        return f"the container engine cannot limit {' and '.join(missing)}: the kernel's cgroups lack it"
    return ""


def _connect() -> tuple[docker.APIClient, dict[str, Any]]:
    client = None
    try:
        client = open_engine(version="auto", timeout_seconds=_CALL_SECONDS, connections=_CONNECTIONS)
        return client, client.info()
    except ValueError as error:
        raise RunRefusedError(str(error)) from error
    except ENGINE_ERRORS as error:
        if client is not None:
            client.close()
        raise RunRefusedError(f"no container engine answers: {_words(error)}") from error


def _engines_disks(info: dict[str, Any]) -> tuple[Path, ...]:
    """Where an engine of this machine keeps containers; another machine's folders are not ours to measure."""
    root = Path(str(info.get("DockerRootDir") or "/nonexistent"))
    return (root,) if engine_host().startswith("unix:") and root.is_dir() else ()


def _refusal(error: Exception, image: str) -> RunRefusedError:
    if isinstance(error, ImageNotFound):
        words = f"the image {image} is not on this node, which never pulls images itself"
        return RunRefusedError(words, ReasonCode.IMAGE_ABSENT)
    if isinstance(error, APIError):
        words = f"the container engine refused the task: {_words(error)}"
        return RunRefusedError(words, code_of_words(words) or ReasonCode.ENGINE_REFUSED)
    if isinstance(error, OSError) and code_of_os_error(error) is ReasonCode.DISK_FULL:
        # Not from the engine: a folder of the run's.
        return RunRefusedError(f"the node's disk is full: {_words(error)}", ReasonCode.DISK_FULL)
    return RunRefusedError(f"the container engine does not answer: {_words(error)}", ReasonCode.ENGINE_AWAY)


def _words(error: Exception) -> str:
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return " ".join(str(text).split())[:300]
