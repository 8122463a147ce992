"""`hivemind doctor`: on the pool's host, what is wrong and what to do. Needs neither Docker nor a login."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from local_pool import plan
from local_pool.command import read_settings
from local_pool.doctor import findings, on_this_host, servers
from local_pool.doctor.findings import DoctorFinding, FindingLevel
from local_pool.pool_place import PoolPlace, data_dir_option, find_place
from local_pool.valkey import embedded_url
from nodepool.settings import Settings

FAULT_EXIT = 1
_MARKS = {FindingLevel.OK: "ok", FindingLevel.WARNING: "warning", FindingLevel.FAULT: "FAULT"}


@click.command()
@data_dir_option
@click.option(
    "--gateway",
    default=None,
    metavar="HOST:PORT",
    help="Where the gateway serves; else as the settings say.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(data_dir: Path | None, gateway: str | None, *, as_json: bool) -> None:
    """Look at the pool of this host: settings, servers, sweep, clocks, ports, disks, keys, certificates.

    Exit code 1: something is wrong. Each finding says what to do. The pool may go on meanwhile; nothing is
    changed but one row that shows that the database can be written.
    """
    found = _found(data_dir, gateway)
    healthy = all(finding.level is not FindingLevel.FAULT for finding in found)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in found]}))
    else:
        for finding in found:
            _print(finding)
    if not healthy:
        sys.exit(FAULT_EXIT)


def _found(data_dir: Path | None, gateway: str | None) -> Sequence[DoctorFinding]:
    try:
        settings = read_settings()
    except click.ClickException as error:
        return [findings.fault("settings", error.message, "correct it in the environment or in .env")]
    place = find_place(data_dir, settings)
    settings = _with_broker(place, settings)
    address = gateway or _address(settings)
    now = datetime.datetime.now(datetime.UTC)
    return list(
        findings.run(
            (
                ("settings", partial(on_this_host.check_settings, place)),
                ("database", partial(servers.check_database, place)),
                ("broker", partial(servers.check_broker, settings)),
                ("owner", partial(servers.check_broker_owner, place, settings)),
                ("gateway", partial(servers.check_gateway, settings, address)),
                ("disk", partial(on_this_host.check_disks, place)),
                ("keys", partial(on_this_host.check_keys, place)),
                ("certificates", partial(on_this_host.check_certificates, place, now)),
            )
        )
    )


def _with_broker(place: PoolPlace, settings: Settings) -> Settings:
    """Of `hivemind up` the broker that it runs itself."""
    url = embedded_url(place.data_dir) if place.data_dir is not None and place.has_own_broker else ""
    return Settings.model_validate({**settings.model_dump(), "redis_url": url}) if url else settings


def _address(settings: Settings) -> str:
    host = plan.LOOPBACK if settings.grpc_server_host in plan.WILDCARDS else settings.grpc_server_host
    return f"{host}:{settings.grpc_server_port}"


def _print(finding: DoctorFinding) -> None:
    click.echo(f"{_MARKS[finding.level]:8} {finding.check:13} {finding.message}")
    if finding.action:
        click.echo(f"{'':22} -> {finding.action}")
