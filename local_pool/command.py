"""`hivemind up`: the whole pool in one terminal, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
from pydantic import ValidationError

from local_pool import plan
from local_pool.gateway_probe import OperatorRefusedError
from local_pool.plan import LOOPBACK, PoolOptions
from local_pool.private_files import DataDirInUseError, DirLock
from local_pool.startup import Startup
from local_pool.supervisor import StopRequestedError, Supervisor
from nodepool import hardening
from nodepool.home import home
from nodepool.settings import Settings
from nodepool.stores.redis.fitness import UnfitBrokerError

MOST_AGENTS = 16


def default_data_dir() -> Path:
    """Where programs keep data: the system's place for root, since the users that root's tasks run as
    cannot get into its home; else the person's (XDG)."""
    if os.geteuid() == 0:
        return Path("/var/lib/hivemind/pool")
    base = os.environ.get("XDG_DATA_HOME") or home(os.environ) / ".local" / "share"
    return Path(base) / "hivemind" / "pool"


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    show_default="~/.local/share/hivemind/pool, for root /var/lib/hivemind/pool",
    help="Everything that the pool keeps.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    default=None,
    show_default="GRPC_SERVER_PORT or 50051",
    help="Port of the gateway; 0 picks a free one.",
)
@click.option(
    "--flower-port",
    type=click.IntRange(0, 65535),
    default=5555,
    show_default=True,
    help="Port of Flower on the loopback address; 0 picks a free one.",
)
@click.option(
    "--agents",
    type=click.IntRange(0, MOST_AGENTS),
    default=1,
    show_default=True,
    help="Worker agents on this machine.",
)
@click.option(
    "--runner",
    type=click.Choice(["auto", "docker", "process"]),
    default="auto",
    show_default=True,
    help="What tasks run in; auto: Docker where it works and has the image.",
)
@click.option(
    plan.STRANGERS_OPTION,
    "accept_strangers",
    is_flag=True,
    help="Where nothing keeps tasks from this machine's files and processes, run everybody's all the same.",
)
@click.option("--flower/--no-flower", default=True, show_default=True, help="The window on the pool.")
def up(
    data_dir: Path,
    grpc_port: int | None,
    flower_port: int,
    agents: int,
    runner: str,
    *,
    accept_strangers: bool,
    flower: bool,
) -> None:
    """Start the whole pool here: broker, gateway, dispatcher, Flower and agents. Ctrl-C stops it.

    Without REDIS_URL or REDIS_HOST an embedded Valkey is the broker, and without DATABASE_URL or
    DB_PATH a SQLite file is the database, both in the data directory.
    """
    hardening.harden()
    settings, environment = read_settings(), dict(os.environ)
    hardening.forget_secrets()
    wanted = PoolOptions(
        data_dir=data_dir.resolve(),
        grpc_port=settings.grpc_server_port if grpc_port is None else grpc_port,
        flower_port=flower_port,
        agents=agents,
        runner=runner,
        flower=flower,
        accept_strangers=accept_strangers,
    )
    _make_data_dir(wanted.data_dir)
    try:
        lock = DirLock(wanted.data_dir / "up.lock")
    except DataDirInUseError as error:
        raise click.ClickException(str(error)) from error
    try:
        sys.exit(_run(settings, wanted, environment))
    finally:
        lock.release()


def _run(settings: Settings, wanted: PoolOptions, environment: Mapping[str, str]) -> int:
    """From the first part's start to the last one's end; the command's exit status."""
    supervisor = Supervisor(wanted.data_dir, say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.request_stop())
    # They may hold the very ports that are asked for.
    supervisor.end_leftovers()
    options = replace(
        wanted,
        grpc_port=_port(wanted.grpc_port, settings.grpc_server_host, "--grpc-port"),
        flower_port=_port(wanted.flower_port, LOOPBACK, "--flower-port") if wanted.flower else 0,
    )
    clean = False
    try:
        Startup(supervisor, settings, options, environment, say).all()
        supervisor.run()
    except StopRequestedError:
        pass
    except (OperatorRefusedError, UnfitBrokerError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        clean = supervisor.stop_all()
        say("stopped" if clean else "stopped, not all of it cleanly")
    return 0 if clean else 1


def say(line: str) -> None:
    # Who started the pool may have gone and closed its end; the pool goes on.
    with suppress(OSError):
        click.echo(line)
        sys.stdout.flush()


def read_settings() -> Settings:
    try:
        return Settings.model_validate({})
    except ValidationError as error:
        # Not the error's own text: it repeats the values, and some of them are secrets.
        problems = [
            f"{'.'.join(map(str, problem['loc'])).upper() or 'settings'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise click.ClickException("; ".join(problems)) from None


def _make_data_dir(path: Path) -> None:
    """Passable for the users that tasks run as, whose working directories are below; not listable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711)
        # The agents' folders below it say themselves what others may do in them.
        (path / "agents").mkdir(exist_ok=True)
        (path / "agents").chmod(0o711)
        # SQLite gives its journal files the mode of the database.
        (path / "pool.db").touch(mode=0o600)
    except OSError as error:
        raise click.ClickException(f"the data directory cannot be used: {error}") from error


def _port(wished: int, host: str, option: str) -> int:
    """The port, or a free one for 0. Raises ClickException where something else listens."""
    address = (host.strip("[]"), wished)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the servers do: connections of an earlier run that linger are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise click.ClickException(
                f"port {wished} on {host} cannot be used ({error.strerror}): is another pool running? "
                f"Stop what listens there, or give another {option}"
            ) from error
        return int(probe.getsockname()[1])
