"""What the gateway's enrolment means for each part of the agent."""

from __future__ import annotations

from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.attempt_job import EnrolmentTerms
from worker_agent.celery_consumer import ConsumerOptions
from worker_agent.execution import RunLimits
from worker_agent.heartbeat import HeartbeatOptions
from worker_agent.lease import AgentLimits


def terms_of(enrolment: pb.EnrollAgentResponse) -> EnrolmentTerms:
    return EnrolmentTerms(
        limits=RunLimits(
            max_output_bytes=enrolment.max_output_bytes,
            max_result_bytes=enrolment.max_result_bytes,
            max_workdir_bytes=enrolment.max_workdir_bytes,
            max_unpacked_bytes=enrolment.max_unpacked_bytes,
            max_package_entries=enrolment.max_package_entries,
            pids_limit=enrolment.pids_limit,
            tmpfs_bytes=enrolment.tmpfs_bytes,
        ),
        default_image=enrolment.default_image,
        allowed_images=frozenset((enrolment.default_image, *enrolment.allowed_images)),
        network_allowed=enrolment.network_allowed,
    )


def limits_of(enrolment: pb.EnrollAgentResponse, max_tasks: int) -> AgentLimits:
    return AgentLimits(
        lease_seconds=enrolment.lease_seconds,
        grace_seconds=enrolment.outage_grace_seconds,
        report_period_seconds=enrolment.report_period_seconds,
        # Twice: the pool gives the next one as soon as it has acknowledged the end of the last.
        max_held=2 * max_tasks + 2,
    )


def board_of(enrolment: pb.EnrollAgentResponse) -> HeartbeatOptions:
    return HeartbeatOptions(
        url=enrolment.broker_url,
        ca_pem=enrolment.broker_ca_pem,
        report_key=enrolment.report_key,
        assigned_key=enrolment.assigned_key,
        pace_key=enrolment.pace_key,
        period_seconds=enrolment.report_period_seconds,
        lease_seconds=enrolment.lease_seconds,
    )


def consumer_options_of(enrolment: pb.EnrollAgentResponse, node_id: str, max_tasks: int) -> ConsumerOptions:
    return ConsumerOptions(
        node_id=node_id,
        broker_url=enrolment.broker_url,
        broker_ca_pem=enrolment.broker_ca_pem,
        queue=enrolment.queue,
        control_exchange=enrolment.control_exchange,
        event_exchange=enrolment.event_exchange,
        events_enabled=enrolment.events_enabled,
        max_tasks=max_tasks,
    )
