"""Whether a package is one: looked into here where it is small, else in a bounded process."""

from __future__ import annotations

import io

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases.incoming_package import IncomingPackage
from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import check_package
from nodepool.heavy import jobs
from nodepool.heavy.worker import OutOfBoundsError, WorkerEndedError
from nodepool.stores.sql import storage_accounting

# Checking this many bytes costs no more than asking another process to.
_SMALL_BYTES = 32 << 10


def check_not_refused(gateway: Gateway, sha256: str) -> None:
    """Raises InvalidPackageError for what was looked into before and was none."""
    if why := gateway.refused.why(sha256):
        raise InvalidPackageError(f"{why} (these very bytes were refused before)")


def is_fine(gateway: Gateway, package: IncomingPackage) -> bool:
    """Whether it need not be looked into. Raises InvalidPackageError."""
    if package.size <= _SMALL_BYTES:
        check_package(io.BytesIO(package.read()), gateway.settings.package_limits, read_all=True)
        return True
    sha256 = package.sha256
    known = gateway.database.read(lambda connection: storage_accounting.is_kept(connection, sha256))
    return known and gateway.files.has_package(sha256)


async def look_into(gateway: Gateway, owner: CallerIdentity, package: IncomingPackage) -> None:
    """Raises InvalidPackageError, and counts it against its sender; RateLimitedError where too much waits."""
    # While it waits for its turn, and is with the process that looks at it.
    with gateway.memory.hold(owner.user_id, package.held_bytes):
        try:
            data = await gateway.run(package.read)
            await gateway.run_heavy(owner.user_id, jobs.check, data, gateway.settings.package_limits)
        except (InvalidPackageError, OutOfBoundsError) as error:
            why = (
                str(error)
                if isinstance(error, InvalidPackageError)
                else f"the package cannot be checked: {error}"
            )
            gateway.limits.refused_package(owner)
            if not isinstance(error, WorkerEndedError):  # others can end a process, too
                gateway.refused.add(package.sha256, why)
            raise InvalidPackageError(why) from None
