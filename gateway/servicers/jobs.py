"""The calls of MasterNodeService about jobs and what is done again. No rules here."""

# Names and arguments are the protocol's.
# ruff: noqa: N802, ARG002
from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

from gateway import job_messages, messages as views
from gateway.admission.arrival import Context
from gateway.auth.callers import current_identity
from gateway.context import Gateway
from gateway.usecases import jobs, resubmit, resubmit_flow, submit_array, submit_flow
from gateway.usecases.array_request import IncomingArray
from gateway.usecases.flow_request import IncomingFlow
from gateway.usecases.keep_flow import AcceptedFlow
from gateway.usecases.submit_array import AcceptedArray
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.disk import disk_errors


class JobCalls:
    """A part of MasterNodeServicer."""

    _gateway: Gateway

    async def SubmitArray(
        self, request_iterator: AsyncIterator[pb.SubmitArrayRequest], context: Context
    ) -> pb.SubmitArrayResponse:
        gateway, owner = self._gateway, current_identity()
        with gateway.files.spool() as file:
            incoming = IncomingArray(gateway, owner, file)
            async for message in request_iterator:
                await incoming.take(message)
            request, package = incoming.whole()
            return _accepted(await submit_array.submit(gateway, owner, request, package))

    async def SubmitFlow(
        self, request_iterator: AsyncIterator[pb.SubmitFlowRequest], context: Context
    ) -> pb.SubmitFlowResponse:
        gateway, owner = self._gateway, current_identity()
        with disk_errors(), ExitStack() as stack:
            incoming = IncomingFlow(gateway, stack)
            async for message in request_iterator:
                await incoming.take(message)
            request, packages = incoming.whole()
            accepted = await submit_flow.submit(gateway, owner, request, packages, stack)
        return pb.SubmitFlowResponse(
            success=True,
            message=_flow_text(accepted),
            repeated=accepted.repeated,
            job_id=accepted.job_id,
            tasks=accepted.tasks,
            most_cpt=accepted.most,
            notify_kept=True,
        )

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        shown = await self._gateway.run_list(jobs.show, self._gateway, current_identity(), request.job_id)
        return pb.GetJobResponse(
            success=True,
            message=job_messages.sentence(shown),
            job=job_messages.job(shown),
            reasons=[job_messages.reason(row) for row in shown.reasons],
            steps=[job_messages.step(row, shown) for row in shown.steps],
        )

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        shown, token = await self._gateway.run_list(
            jobs.list_own, self._gateway, current_identity(), request.page_size, request.page_token
        )
        return pb.ListJobsResponse(
            success=True,
            message=f"{len(shown)} jobs",
            jobs=[job_messages.job(one) for one in shown],
            next_page_token=token,
        )

    async def ListJobTasks(
        self, request: pb.ListJobTasksRequest, context: Context
    ) -> pb.ListJobTasksResponse:
        rows, following = await self._gateway.run_list(
            jobs.list_tasks,
            self._gateway,
            current_identity(),
            request.job_id,
            list(request.states),
            request.page_size,
            request.from_index,
            request.step,
        )
        retention = self._gateway.settings.retention
        return pb.ListJobTasksResponse(
            success=True,
            message=f"{len(rows)} tasks",
            tasks=[views.task_status(row, retention) for row in rows],
            next_index=following,
        )

    async def StopJob(self, request: pb.StopJobRequest, context: Context) -> pb.StopJobResponse:
        stopped = await jobs.stop(self._gateway, current_identity(), request.job_id)
        words = f"{stopped} tasks of job {request.job_id} are being stopped"
        if not stopped:
            words = f"all tasks of job {request.job_id} have ended already"
        return pb.StopJobResponse(success=bool(stopped), message=words, stopped=stopped)

    async def ResubmitTask(
        self, request: pb.ResubmitTaskRequest, context: Context
    ) -> pb.ResubmitTaskResponse:
        done = await resubmit.resubmit_task(self._gateway, current_identity(), request)
        word = "was accepted before; nothing was changed" if done.repeated else "is accepted"
        fewer = f"; {views.covered_text(done.max_minutes)}" if done.minutes_by_balance else ""
        return pb.ResubmitTaskResponse(
            success=True,
            message=f"task {done.task_id} {word}{fewer}",
            repeated=done.repeated,
            task_id=done.task_id,
            job_id=done.job_id,
            max_minutes=done.max_minutes,
            minutes_by_balance=done.minutes_by_balance,
        )

    async def ResubmitJob(self, request: pb.ResubmitJobRequest, context: Context) -> pb.SubmitArrayResponse:
        gateway, owner = self._gateway, current_identity()
        flow = await resubmit_flow.resubmit_if_flow(gateway, owner, request)
        if flow is None:
            return _accepted(await resubmit.resubmit_job(gateway, owner, request))
        return pb.SubmitArrayResponse(
            success=True,
            message=_flow_text(flow),
            repeated=flow.repeated,
            job_id=flow.job_id,
            tasks=flow.tasks,
            most_cpt=flow.most,
            notify_kept=True,
        )


def _flow_text(accepted: AcceptedFlow) -> str:
    word = "was accepted before; nothing was changed" if accepted.repeated else "is accepted"
    most = f", at most {accepted.most} CPT" if accepted.most else ""
    return f"flow {accepted.job_id} {word}: {accepted.tasks} tasks{most}"


def _accepted(accepted: AcceptedArray) -> pb.SubmitArrayResponse:
    price = accepted.price
    word = "was accepted before; nothing was changed" if accepted.repeated else "is accepted"
    fewer = f"; each {views.covered_text(price.max_minutes)}" if price.minutes_by_balance else ""
    return pb.SubmitArrayResponse(
        success=True,
        message=f"job {accepted.job_id} {word}: {accepted.tasks} tasks, at most {price.most} CPT, of which "
        f"each holds {price.of_each} when it is placed{fewer}",
        repeated=accepted.repeated,
        job_id=accepted.job_id,
        tasks=accepted.tasks,
        max_minutes=price.max_minutes,
        minutes_by_balance=price.minutes_by_balance,
        price_per_minute_cpt=price.price_per_minute,
        most_cpt=price.most,
        retries=accepted.retries,
        notify_kept=True,
    )
