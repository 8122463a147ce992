"""Tasks that are asked for without their ids: lists in pages, and what the beginning of an id means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway import messages as views, page_tokens
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.usecases import removal
from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.stores.sql import jobs as job_store, task_lists as list_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import OwnedTask

_PAGE, _MOST = 100, 1000
#: Of one call: names to be resolved, or tasks and jobs to be watched.
MOST_NAMES = 1000
_CANDIDATES = 10


def list_own(
    gateway: Gateway, identity: CallerIdentity, wanted: TaskFilter, page_size: int, page_token: str
) -> tuple[Sequence[OwnedTask], str]:
    """A page, and the token of the next; empty: that was all."""
    return page_of(
        gateway, identity, wanted, page_size=page_size, page_token=page_token, owner_id=identity.user_id
    )


def page_of(
    gateway: Gateway,
    caller: CallerIdentity,
    wanted: TaskFilter,
    *,
    page_size: int,
    page_token: str,
    owner_id: int | None,
) -> tuple[Sequence[OwnedTask], str]:
    """Of one owner's tasks, or (None) of everybody's."""
    size = views.page_size(page_size, default=_PAGE, most=_MOST)
    question = f"tasks {owner_id} {wanted.digest()}"
    after = _place(gateway, caller, question, page_token) if page_token else None
    rows = gateway.database.read(
        lambda c: list_store.page(c, wanted, size + 1, owner_id=owner_id, after=after)
    )
    page = rows[:size]
    if len(rows) <= size:
        return page, ""
    place = [page[-1].created_at, page[-1].id]
    return page, page_tokens.issue(gateway.tokens, caller.user_id, question, place)


def _place(gateway: Gateway, caller: CallerIdentity, question: str, token: str) -> list_store.Place:
    at, task_id = page_tokens.read(gateway.tokens, caller.user_id, question, token)
    return float(at), str(task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What somebody named: one of the two ids, or the problem with it."""

    name: str
    task_id: str = ""
    job_id: str = ""
    problem: str = ""
    candidates: Sequence[str] = ()


def resolve(gateway: Gateway, identity: CallerIdentity, names: Sequence[str]) -> list[Resolved]:
    """In the order of `names`. A whole id is always itself; a beginning counts where only one id has it."""
    if len(names) > MOST_NAMES:
        raise InvalidInputError(f"name at most {MOST_NAMES} tasks and jobs at once, not {len(names)}")
    for name in names:
        ids.check_beginning(name)
    wanted = list(dict.fromkeys(names))
    tasks, jobs = gateway.database.read(lambda c: _whole_ids(c, identity.user_id, wanted))
    found = {}
    for name in wanted:
        if name in tasks:
            found[name] = Resolved(name=name, task_id=name)
        elif name in jobs:
            found[name] = Resolved(name=name, job_id=name)
        else:
            found[name] = _begun(gateway, identity, name)
    return [found[name] for name in names]


def _whole_ids(connection: Connection, owner_id: int, names: Sequence[str]) -> tuple[set[str], set[str]]:
    tasks = {row.id for row in list_store.pulses(connection, owner_id, names)}
    jobs = {row.id for row in job_store.own(connection, owner_id, names)}
    return tasks, jobs


def _begun(gateway: Gateway, identity: CallerIdentity, name: str) -> Resolved:
    if len(name) < ids.LEAST_BEGINNING:
        missing = str(removal.not_there(gateway, identity, name))
        short = f"the beginning of an id has at least {ids.LEAST_BEGINNING} characters"
        return Resolved(name=name, problem=f"{missing}; {short}")
    tasks, jobs = gateway.database.read(
        lambda c: (
            list_store.beginning_with(c, identity.user_id, name, _CANDIDATES + 1),
            job_store.beginning_with(c, identity.user_id, name, _CANDIDATES + 1),
        )
    )
    found = [*jobs, *tasks]
    if len(found) == 1:
        return Resolved(name=name, task_id="".join(tasks), job_id="".join(jobs))
    if found:
        more = " and more" if len(found) > _CANDIDATES else ""
        shown = sorted(found)[:_CANDIDATES]
        words = f"{name!r} is the beginning of several ids: {', '.join(shown)}{more}"
        return Resolved(name=name, problem=words, candidates=shown)
    return Resolved(name=name, problem=str(removal.not_there(gateway, identity, name)))
