"""What tasks run in on this machine when the operator leaves it open.

An agent takes Docker wherever its engine answers; here the image of tasks is asked for too, since
an engine without it would refuse every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import docker
from docker.errors import DockerException, ImageNotFound

AUTO, DOCKER, PROCESS = "auto", "docker", "process"
ENGINE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    runner: str
    reason: str  # one sentence for the operator


def choose(wished: str, image: str) -> Choice:
    """`wished` itself unless it is `auto`. Asks the engine, pulls nothing."""
    if wished == PROCESS:
        return Choice(PROCESS, "tasks run as processes")
    try:
        client = docker.from_env(timeout=ENGINE_SECONDS)
    except DockerException:
        problem = "no Docker engine answers here"
    else:
        try:
            client.images.get(image)
        except ImageNotFound:
            problem = f"the Docker engine here has no image {image} (docker pull {image})"
        except DockerException:
            problem = "the Docker engine here does not answer as it should"
        else:
            return Choice(DOCKER, f"tasks run in Docker containers of {image}")
        finally:
            client.close()
    if wished == DOCKER:
        return Choice(DOCKER, f"{problem}: tasks that come now will be refused")
    return Choice(PROCESS, f"{problem}: tasks run as processes")
