"""The Docker engine and the image that tests run containers from."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from tests.support.environment import not_here
from tests.support.processes import run_name

IMAGE_VARIABLE = "HIVEMIND_TEST_IMAGE"
NODE_LABEL = "hivemind.node"


def _connect() -> docker.DockerClient | str:
    """A client, or why there is none."""
    # A client that finds no engine drops its socket unclosed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return docker.from_env(timeout=60)
        except DockerException as error:
            problem = str(error)
        gc.collect()
    return problem


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine that DOCKER_HOST names; skips or fails the test where none answers."""
    client = _connect()
    if isinstance(client, str):
        not_here(f"no Docker engine answers ({client})")
    try:
        yield client
    finally:
        client.close()


def image_name(client: docker.DockerClient) -> str:
    name = os.environ.get(IMAGE_VARIABLE)
    if not name:
        not_here(f"no test image: {IMAGE_VARIABLE} is not set")
    try:
        client.images.get(name)
    except ImageNotFound:
        not_here(f"the engine has no image {name}")
    return name


def our_containers(client: docker.DockerClient) -> list[Container]:
    """Containers of this run's nodes, running or not; other runs of the tests may use the same engine."""
    return [
        container
        for container in client.containers.list(all=True, ignore_removed=True, filters={"label": NODE_LABEL})
        if run_name() in container.labels[NODE_LABEL]
    ]


def remove_all(containers: list[Container]) -> None:
    for container in containers:
        with suppress(DockerException):
            container.remove(force=True, v=True)
