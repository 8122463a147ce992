"""`python -m gateway`: the gateway as a process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog
from pydantic import ValidationError

from gateway import context
from gateway.listening import CannotServeError, check_exposure
from gateway.server import serve
from gateway.usecases import bootstrap_admin, nodes
from nodepool import hardening
from nodepool.domain.errors import NodePoolError
from nodepool.observability import set_up_logging
from nodepool.settings import Settings
from nodepool.stores.redis import certificates, fitness
from nodepool.watchdog import Watchdog

log = structlog.get_logger(__name__)


def main() -> int:
    hardening.harden()
    hardening.begin(os.environ)
    os.umask(0o077)
    try:
        settings = Settings.model_validate({})
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            print(f"gateway: {name + ': ' if name else ''}{problem['msg']}", file=sys.stderr)
        return 2
    hardening.forget_secrets()
    watchdog = Watchdog.of(os.environ)
    set_up_logging(settings.log_level, as_json=settings.log_json)
    try:
        check_exposure(settings)
        return _run(settings, watchdog)
    except CannotServeError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return error.exit_code
    except (NodePoolError, ValueError, OSError) as error:
        log.debug("gateway cannot start", action="gateway.failed", exc_info=error)
        print(f"gateway: cannot start: {error}", file=sys.stderr)
        return 1


def _run(settings: Settings, watchdog: Watchdog) -> int:
    gateway = context.build(settings)
    try:
        certificates.check(gateway.redis, settings)
        if broker_is_fit := fitness.check(gateway.redis, settings):
            gateway.own_broker.check()
        bootstrap_admin.ensure(gateway)
        nodes.retire_of_admins(gateway)
        asyncio.run(serve(gateway, watchdog, broker_is_fit=broker_is_fit))
    finally:
        gateway.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
