"""Nodes come, say how they are, and go."""

from __future__ import annotations

import logging
from collections.abc import Collection

from gateway import messages as views
from gateway.auth.access import ADMIN_ROLE
from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool import wire
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import (
    InvalidInputError,
    NodePoolError,
    PermissionDeniedError,
    StaleAttemptError,
    StateConflictError,
    UnauthenticatedError,
    UnavailableError,
)
from nodepool.domain.nodes import claimed_resources, generation, push_addresses, report_interval
from nodepool.domain.nodes.generation import NO_WORK_WORDS, Generation
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust import access_limits
from nodepool.events.catalogue import LeaveCause
from nodepool.messaging import names
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis import agent_instances, broker_users, certificates, keys
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.monitor_words import MonitorWords
from nodepool.stores.sql import nodes as node_store, tasks as task_store, verification_records
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.users import credit_score

log = logging.getLogger(__name__)
# What a registration can be refused for, however often it is sent again as it is.
REFUSALS = (InvalidInputError, PermissionDeniedError, StateConflictError)
# Ids are kept for ever; a machine that is set up anew may have another one.
_IDS_PER_NODE = 10


def register(
    gateway: Gateway, identity: CallerIdentity, request: pb.RegisterWorkerNodeRequest, peer_address: str
) -> None:
    """`peer_address` is who called: a node without an agent is called there and nowhere else."""
    check_owner(identity)
    facts = wire.node_facts_from_wire(request)
    now, settings = gateway.clock(), gateway.settings
    if facts.kind is NodeKind.PUSHED and settings.push_to_nodes:
        push_addresses.check_registration(
            facts.hostname, facts.port, peer=peer_address, networks=settings.push_networks
        )
    claimed_resources.check(facts.total, facts.cpu_cores, settings.claim_rules)
    again = request.again
    if again:
        gateway.database.read(lambda c: node_store.find_own(c, facts.node_id, identity.user_id))
        agent_instances.check(gateway.redis, facts.node_id, request.instance)
    gateway.database.read(lambda c: _check_room(gateway, c, identity, facts.node_id))
    gateway.database.write(
        lambda c: node_store.register(
            c,
            facts,
            identity.user_id,
            now,
            peer_address=peer_address,
            again=again,
            believed=settings.probe_hours <= 0,
            token_sha256=identity.token_sha256 if facts.kind is NodeKind.PUSHED else "",
        )
    )
    if not again:
        agent_instances.take_over(gateway.redis, facts.node_id, request.instance)
    if facts.kind is NodeKind.PUSHED:
        # Before it is announced: whoever looks then sees it online.
        gateway.registry.write_report(facts.node_id, at=now)
    _sync(gateway, facts.node_id)


def check_owner(identity: CallerIdentity) -> None:
    """Raises PermissionDeniedError for an admin: whoever gets at an agent's password would run the pool."""
    if identity.role == ADMIN_ROLE:
        raise PermissionDeniedError(
            f"{identity.username} is an admin, and nodes never belong to one: make an account for them "
            "(hivemind register NAME) and start the agent with its name and password"
        )


def retire_of_admins(gateway: Gateway) -> None:
    """Nodes whose owner has become an admin since, or whom a version before this one let in, leave."""
    for row in gateway.database.read(lambda c: node_store.active_of_role(c, ADMIN_ROLE)):
        _leave(gateway, row.id, LeaveCause.OWNER_IS_ADMIN, blameless=True)


def _check_room(gateway: Gateway, connection: Connection, identity: CallerIdentity, node_id: str) -> None:
    """Raises ConflictError where the owner has as many nodes as they may."""
    score = credit_score(connection, identity.user_id)
    most = min(gateway.settings.max_nodes_per_user, access_limits.limits_of(score).nodes)
    is_known, is_active = node_store.states_of(connection, node_id, identity.user_id)
    active, known = node_store.count_of(connection, identity.user_id)
    if active >= most and not is_active:
        raise StateConflictError(
            f"you have {active} nodes in the pool, as many as your credit score of {score} allows: "
            "deregister one that is gone, or ask the pool's operator"
        )
    if known >= _IDS_PER_NODE * most and not is_known:
        raise StateConflictError(
            f"you have registered {known} different node ids: use one of a node that has left again"
        )


def _sync(gateway: Gateway, node_id: str) -> None:
    gateway.lifecycle.sync_node(node_id)


def report_status(
    gateway: Gateway, identity: CallerIdentity, node_id: str, unknown_fields: Collection[int] = ()
) -> str:
    """What keeps work from the node, in words that its people are shown; empty: nothing that it could help.

    `unknown_fields`: numbers of fields of the report that this protocol does not have.
    """
    if identity.only_node not in {"", node_id}:
        raise UnauthenticatedError
    row = gateway.database.read(lambda c: node_store.find_own(c, node_id, identity.user_id))
    if row.kind == NodeKind.AGENT:
        return ""  # agents report through Redis; over gRPC they only show that they have contact
    gateway.registry.write_report(node_id, at=gateway.clock())
    shown = generation.after_report(row.generation, unknown_fields)
    if shown is not row.generation and gateway.database.write(
        lambda c: node_store.set_generation(c, node_id, row.generation, shown)
    ):
        if shown is Generation.LATER:
            log.warning("node %s of %s gets no work: %s", node_id, row.owner, NO_WORK_WORDS[shown])
        _sync(gateway, node_id)
    return NO_WORK_WORDS[shown]


def listed(gateway: Gateway, *, include_offline: bool) -> list[pb.WorkerNodeInfo]:
    """Every active node, with what Redis knows of it; without Redis all are offline."""
    rows = gateway.database.read(node_store.active)
    late = gateway.settings.node_late_seconds
    try:
        views_by_id = {view.node_id: view for view in gateway.registry.snapshot(late)}
        reports = gateway.registry.reports(row.id for row in rows)
    except UnavailableError as error:
        log.warning("nodes are listed without their present: %s", error)
        views_by_id, reports = {}, {}
    now, rules = gateway.clock(), gateway.settings.history_rules
    found = [
        views.node_info(
            row, views_by_id.get(row.id), reports.get(row.id), now=now, late_seconds=late, rules=rules
        )
        for row in rows
    ]
    return [node for node in found if include_offline or node.status != wire.NODE_OFFLINE]


def enroll(
    gateway: Gateway, identity: CallerIdentity, node_id: str, instance: str = ""
) -> pb.EnrollAgentResponse:
    """A broker user of its own, and everything else that the agent needs to know."""
    check_owner(identity)
    row = gateway.database.read(lambda c: node_store.find_own(c, node_id, identity.user_id))
    if row.kind != NodeKind.AGENT or not row.active:
        raise StateConflictError(f"register {node_id!r} with kind 'agent' first")
    agent_instances.check(gateway.redis, node_id, instance)
    settings = gateway.settings
    authority = certificates.authority_for_agents(settings)
    url = broker_users.create(gateway.redis, node_id, base_url=settings.agent_broker.url)
    return pb.EnrollAgentResponse(
        success=True,
        message="enrolled",
        broker_url=url,
        broker_ca_pem=authority,
        queue=names.node_queue(node_id),
        report_key=keys.report(node_id),
        assigned_key=keys.assigned(node_id),
        control_exchange=names.control_exchange(node_id),
        event_exchange=names.event_exchange(node_id),
        events_enabled=settings.agent_events,
        report_period_seconds=report_interval.report_period(
            Liveness(gateway.redis).node_count(),
            least_seconds=settings.report_period_seconds,
            lease_seconds=settings.lease_seconds,
        ),
        pace_key=keys.PACE,
        lease_seconds=settings.lease_seconds,
        outage_grace_seconds=settings.outage_grace_seconds,
        trust_tier=verification_records.tier_of(row),
        default_image=settings.default_image,
        allowed_images=settings.image_allow_list,
        network_allowed=settings.allow_task_network,
        max_output_bytes=settings.max_output_bytes,
        max_result_bytes=settings.max_result_bytes,
        max_workdir_bytes=settings.max_workdir_bytes,
        max_unpacked_bytes=settings.max_unpacked_bytes,
        max_package_entries=settings.max_package_entries,
        pids_limit=settings.pids_limit,
        tmpfs_bytes=settings.tmpfs_bytes,
    )


def set_draining(gateway: Gateway, identity: CallerIdentity, node_id: str, *, draining: bool) -> None:
    gateway.database.read(lambda c: node_store.find_own(c, node_id, identity.user_id))
    gateway.database.write(lambda c: node_store.set_draining(c, node_id, draining=draining))
    _sync(gateway, node_id)


def deregister(gateway: Gateway, identity: CallerIdentity, node_id: str) -> None:
    """The node leaves for good or until it registers again; what it still had goes elsewhere."""
    gateway.database.read(lambda c: node_store.find_own(c, node_id, identity.user_id))
    _leave(gateway, node_id, LeaveCause.SIGNED_OFF)


def _leave(gateway: Gateway, node_id: str, cause: LeaveCause, *, blameless: bool = False) -> None:
    end = End(
        outcome=Outcome.LOST,
        exit_code=None,
        reason=because(ReasonCode.NODE_LEFT, node=node_id),
        blameless=blameless,
    )
    gateway.database.write(lambda c: node_store.deactivate(c, node_id, cause))
    for row in gateway.database.read(lambda c: task_store.live_attempts(c, node_id)):
        try:
            gateway.lifecycle.end_attempt(row.id, node_id, row.owner_id, end)
        except StaleAttemptError:
            continue
    try:
        broker_users.delete(gateway.redis, node_id)
        gateway.registry.remove_node(node_id)
        MonitorWords(gateway.redis).left(node_id)
    except NodePoolError as error:
        log.warning("node %s left; the sweep tidies up: %s", node_id, error)
