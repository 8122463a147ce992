"""Digests of results that are compared: made in the processes for heavy work, while no thread waits.

The end of one attempt is told by one call at a time: else a second result could take the first one's place
after that one's digest was made.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gateway.context import Gateway
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import UnavailableError
from nodepool.heavy import jobs
from nodepool.heavy.worker import OutOfBoundsError, WorkerEndedError
from nodepool.workflows import result_files
from nodepool.workflows.result_files import Wanted

# Of results whose node hung up before its digest was made, and will tell the end again.
_MOST_REMEMBERED = 256


class Digests:
    """For the event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._being_told: set[str] = set()
        self._making: set[asyncio.Future[str | None]] = set()
        self._made: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    @contextmanager
    def telling(self, attempt_id: str) -> Iterator[None]:
        """Raises UnavailableError where another call tells the end of this attempt just now."""
        if attempt_id in self._being_told:
            raise UnavailableError("the end of this attempt is being told already; try again in a moment")
        self._being_told.add(attempt_id)
        try:
            yield
        finally:
            self._being_told.discard(attempt_id)

    async def added(self, account: int, attempt_id: str, end: End, result_sha256: str = "") -> End:
        """The end with the digest of its result, where that is compared. RateLimitedError when too busy."""
        gateway = self._gateway
        database, files, most = gateway.database, gateway.files, gateway.settings.max_workdir_bytes
        for want in await gateway.run(result_files.wanted, database, files, attempt_id, end, max_bytes=most):
            sha256 = "" if want.task_id else result_sha256
            digest = want.or_unlike(await self._digest(account, want, sha256))
            if want.task_id:
                await gateway.run(result_files.keep, database, want, digest)
            else:
                end = replace(end, digest=digest)
                await gateway.run(result_files.check_unchanged, files, want)
        return end

    async def _digest(self, account: int, want: Wanted, sha256: str) -> str | None:
        key = (want.attempt_id, sha256)
        if sha256 and key in self._made:
            return self._made[key]
        # A node that hangs up meanwhile tells the end again, and finds the digest made.
        making = asyncio.ensure_future(self._make(account, want, key))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def _make(self, account: int, want: Wanted, key: tuple[str, str]) -> str | None:
        try:
            made = await self._once(account, want)
        except WorkerEndedError:
            # Others can end a process, too; the second time it was the result.
            try:
                made = await self._once(account, want)
            except OutOfBoundsError:
                made = None
        except OutOfBoundsError:
            made = None
        if key[1]:
            self._remember(key, made)
        return made

    async def _once(self, account: int, want: Wanted) -> str | None:
        return await self._gateway.run_heavy(account, jobs.digest, *want.arguments)

    def _remember(self, key: tuple[str, str], made: str | None) -> None:
        self._made[key] = made
        while len(self._made) > _MOST_REMEMBERED:
            self._made.popitem(last=False)
