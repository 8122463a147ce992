"""docker-compose.yml keeps the pool's promises; read here so that it is checked where there is no Compose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.environment import ROOT

COMPOSE = ROOT / "docker-compose.yml"
OVERRIDES = sorted((ROOT / "deploy").glob("compose.*.yml"))
SERVICES = {
    "valkey",
    "postgres",
    "gateway",
    "dispatcher",
    "account",
    "agent",
    "flower",
    "prometheus",
    "grafana",
}
# Images of others, of the profile `monitoring`.
WATCHERS = {"prometheus", "grafana"}
# Runs once and ends: nothing to be healthy or to be restarted.
ONE_SHOT = {"account"}
STATEFUL = {*WATCHERS, "valkey", "postgres", "gateway", "dispatcher", "agent"}
# What it takes to run a task as a user of its own, and to end it.
AGENT_CAPABILITIES = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID"}
TOP_KEYS = {"services", "volumes"}
# Of the Compose specification, what these files use: a misspelt key would be refused, or worse, ignored.
SERVICE_KEYS = {
    "cap_add", "cap_drop", "command", "depends_on", "env_file", "environment", "healthcheck", "image", "init",
    "logging", "mem_limit", "ports", "profiles", "read_only", "restart", "security_opt", "shm_size",
    "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}")
SECRET = re.compile(r"(?:PASSWORD|SECRET|_KEY|AUTH)$")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def example_names() -> set[str]:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    return set(re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))


def test_every_part_is_a_service(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == SERVICES
    profiles = {name: part["profiles"] for name, part in compose["services"].items() if "profiles" in part}
    assert profiles == {name: ["monitoring"] for name in WATCHERS}


@pytest.mark.parametrize("path", [COMPOSE, *OVERRIDES], ids=lambda path: path.name)
def test_a_file_has_only_keys_that_compose_knows(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {key for key in content if not key.startswith("x-")} <= TOP_KEYS
    assert set(content["services"]) <= SERVICES
    for name, part in content["services"].items():
        assert set(part) <= SERVICE_KEYS, name
        assert set(part.get("healthcheck", {})) <= HEALTH_KEYS, name


@pytest.mark.parametrize("path", [COMPOSE, *OVERRIDES], ids=lambda path: path.name)
def test_every_dollar_begins_a_variable_that_compose_can_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "$" not in VARIABLE.sub("", text)


def test_two_variables_of_one_name_have_one_default() -> None:
    defaults: dict[str, set[str]] = {}
    for path in (COMPOSE, *OVERRIDES):
        for name, _, default in VARIABLE.findall(path.read_text(encoding="utf-8")):
            defaults.setdefault(name, set()).add(default)
    assert {name: found for name, found in defaults.items() if len(found) > 1} == {}


def test_the_example_shows_the_defaults_of_the_compose_files() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    own = example[example.index("-- docker-compose.yml") :]
    shown = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", own, re.MULTILINE))
    for path in (COMPOSE, *OVERRIDES):
        for name, operator, default in VARIABLE.findall(path.read_text(encoding="utf-8")):
            if operator == ":-" and name in shown:
                assert shown[name] == default, name


@pytest.mark.parametrize("service", sorted(SERVICES - ONE_SHOT))
def test_a_service_is_watched_and_comes_back(compose: dict[str, Any], service: str) -> None:
    part = compose["services"][service]
    assert part["healthcheck"]["test"]
    assert part["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", sorted(WATCHERS))
def test_who_watches_has_no_rights_and_changes_nothing(compose: dict[str, Any], service: str) -> None:
    part = compose["services"][service]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    for volume in part["volumes"]:
        source, target, *mode = volume.split(":")
        assert mode == ["ro"] if source.startswith(".") else source in compose["volumes"]
        assert not source.startswith(".") or (ROOT / source).is_dir(), source
        assert target.startswith("/")


def test_the_images_that_make_pin_images_asks_for_are_those_of_the_file() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    pinned = (ROOT / "deploy" / "images.in").read_text(encoding="utf-8")
    for name in ("POSTGRES", "PROMETHEUS", "GRAFANA"):
        (default,) = re.findall(rf"\$\{{{name}_IMAGE:-([^}}]+)\}}", text)
        assert f"\n{name}_IMAGE={default}\n" in pinned


@pytest.mark.parametrize("service", sorted(SERVICES - {"postgres"} - WATCHERS))
def test_a_part_of_ours_has_no_more_rights_than_it_needs(compose: dict[str, Any], service: str) -> None:
    part = compose["services"][service]
    assert part["image"] == "${HIVEMIND_IMAGE:-hivemind-nodepool:latest}"
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["init"] is True
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert not part.get("privileged")
    assert "docker.sock" not in str(part)
    if service == "agent":
        assert set(part["cap_add"]) == AGENT_CAPABILITIES
    else:
        assert "cap_add" not in part
        assert "user" not in part


def test_flower_has_a_memory_limit_above_the_one_that_it_knows(compose: dict[str, Any]) -> None:
    flower = compose["services"]["flower"]
    assert flower["mem_limit"] == "${FLOWER_CONTAINER_MEMORY:-640m}"
    assert flower["environment"]["FLOWER_MEMORY_MB"] == "${FLOWER_MEMORY_MB:-512}"


@pytest.mark.parametrize("service", sorted(STATEFUL))
def test_what_must_last_is_on_a_named_volume(compose: dict[str, Any], service: str) -> None:
    sources = [volume.split(":")[0] for volume in compose["services"][service]["volumes"]]
    names = {source for source in sources if not source.startswith("./")}
    assert names
    assert names <= set(compose["volumes"])


def test_a_service_starts_after_what_it_needs_is_healthy(compose: dict[str, Any]) -> None:
    for name, part in compose["services"].items():
        for needed, condition in part.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert condition == {"condition": wanted}, f"{name} -> {needed}"


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for part in compose["services"].values() for port in part.get("ports", [])]
    assert published
    for port in published:
        assert re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+", port), port


@pytest.mark.parametrize("path", [COMPOSE, *OVERRIDES], ids=lambda path: path.name)
def test_a_secret_has_no_default_and_everything_else_has_one(path: Path) -> None:
    for name, operator, default in VARIABLE.findall(path.read_text(encoding="utf-8")):
        if SECRET.search(name):
            assert operator == ":?", f"{name} must come from .env"
        else:
            assert operator == ":-", f"{name} needs a default"
            assert default


@pytest.mark.parametrize("path", [COMPOSE, *OVERRIDES], ids=lambda path: path.name)
def test_every_variable_is_in_the_example(path: Path) -> None:
    used = {name for name, _, _ in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert used - example_names() == set()


def test_the_example_gives_no_secret_away() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, value in re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE):
        if SECRET.search(name):
            assert value.split("#")[0].strip() == "", f"{name} has a value that somebody would keep"


def test_the_image_has_no_secret_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    instructions = [line for line in lines if re.match(r"[A-Z]+ ", line)]
    assert instructions[-2] == "USER hivemind"
    assert not [line for line in instructions if re.match(r"(ARG|ENV) ", line) and SECRET.search(line)]
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1] == "*"


@pytest.mark.parametrize("service", sorted(SERVICES - ONE_SHOT - {"postgres"} - WATCHERS))
def test_a_health_check_exists_in_the_image(compose: dict[str, Any], service: str) -> None:
    command = compose["services"][service]["healthcheck"]["test"]
    assert command == ["CMD", "python3", "/opt/hivemind/deploy/healthcheck.py", service]
    assert f'"{service}": {service}' in (ROOT / "deploy" / "healthcheck.py").read_text(encoding="utf-8")
