"""Only what stands is unpickled, and words of others do nothing in a notebook. And how steps are done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hivemind import NotAgreedError, NotYetError, TaskFailedError, TaskState, UnreachableError
from hivemind.channel import GatewayChannel
from hivemind.functions.packing import COMPARED, FunctionWork
from hivemind.jobs import JobInfo, ReasonGroup
from hivemind.models import TaskInfo
from hivemind.needs import TaskNeeds
from hivemind.pools import work
from hivemind.pools.handles import JobHandle, TaskHandle
from hivemind.steps import Came, LocalWork, Pause, Steps, Together, drive
from nodepool.domain.tasks.states import Verification
from nodepool.protocol import nodepool_pb2 as pb

NO_GATEWAY = cast(GatewayChannel, None)


def task(**fields: Any) -> TaskInfo:
    values: dict[str, Any] = {"task_id": "t", "status": "COMPLETED", "state": TaskState.SUCCEEDED, **fields}
    return TaskInfo(**values)


@pytest.mark.parametrize(
    ("fields", "stands"),
    [
        ({}, True),
        ({"verification": Verification.AUDITED}, True),
        ({"verification": Verification.PENDING}, False),
        ({"verification": Verification.DISPUTED}, False),
        ({"replicas": 3}, False),
        ({"replicas": 3, "verification": Verification.AGREED}, True),
        ({"replicas": 3, "verification": Verification.PENDING}, False),
        ({"replicas": 3, "verification": Verification.DISPUTED}, False),
        ({"replicas": 3, "state": TaskState.FAILED}, False),
        ({"replicas": 3, "state": TaskState.FAILED, "verification": Verification.AGREED}, True),
        ({"state": TaskState.FAILED}, True),
    ],
    ids=str,
)
def test_only_what_enough_runs_agree_on_is_unpickled(fields: dict[str, Any], *, stands: bool) -> None:
    if stands:
        work.check_may_be_unpickled(task(**fields))
    else:
        with pytest.raises(NotAgreedError, match="only one that its runs agree on"):
            work.check_may_be_unpickled(task(**fields))


def test_runs_of_one_function_give_the_same_bytes_and_have_its_name() -> None:
    needs = TaskNeeds(compare_outputs=("out/*.csv",), environment={"A": "1"})
    made = work.for_objects(needs, FunctionWork.of_map(divmod, [1]))
    assert made.name == "divmod"
    assert made.environment == {"A": "1", "PYTHONHASHSEED": "0"}
    assert made.compare_outputs == ("out/*.csv", *COMPARED)
    own = work.for_objects(
        TaskNeeds(environment={"PYTHONHASHSEED": "7"}, name="mine"), FunctionWork.of_map(divmod, [1])
    )
    assert (own.environment, own.name) == ({"PYTHONHASHSEED": "7"}, "mine")


def test_a_task_without_a_result_says_why() -> None:
    for state, words in (
        (TaskState.FAILED, "failed: no memory"),
        (TaskState.STOPPED, "was stopped: no memory"),
    ):
        ended = task(state=state, reason="no memory")
        with pytest.raises(TaskFailedError, match=words) as raised:
            drive(NO_GATEWAY, work.value(ended, work.Taking()))
        assert raised.value.task is ended


def test_words_of_others_do_nothing_in_a_notebook() -> None:
    evil = "<script>alert('x')</script>\x1b[31m"
    info = task(task_id=evil, reason=evil, node=evil, name=evil)
    job = JobInfo(
        job_id=evil, kind="array", tasks=2, counts={TaskState.FAILED: 2}, name=evil,
        reasons=(ReasonGroup(state=TaskState.FAILED, reason=evil, tasks=2, first_index=0),),
    )  # fmt: skip
    shown = [TaskHandle(None, evil, info=info), JobHandle(None, evil, info=job, name=evil)]
    for each in shown:
        assert "<script>" not in each._repr_html_()
        assert "&lt;script&gt;" in each._repr_html_()
        assert "\x1b" not in each._repr_html_() + repr(each)


def test_it_is_waited_longer_the_longer_nothing_ends_and_never_past_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr(work, "monotonic", lambda: clock)
    waiting = work.Waiting(30.0, 0.0, 0.0)
    with pytest.raises(UnreachableError):
        waiting.unreachable(UnreachableError())
    assert waiting.pause("") == pytest.approx(0.1)
    clock = 20.0
    assert waiting.pause("") == pytest.approx(2.0)
    waiting.answered(news=True)
    assert waiting.pause("") == pytest.approx(0.1)
    clock = 29.95
    assert waiting.pause("") == pytest.approx(0.05)
    clock = 30.0
    with pytest.raises(NotYetError, match="not yet"):
        waiting.pause("not yet")
    waiting.unreachable(UnreachableError())
    clock = 1000.0
    with pytest.raises(UnreachableError):
        waiting.unreachable(UnreachableError())


def test_steps_are_done_in_their_order_and_their_errors_are_caught_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("hivemind.steps.time.sleep", slept.append)

    def failing() -> Steps[None]:
        yield LocalWork(lambda: 1 // 0)

    def one(value: int) -> Steps[int]:
        return (yield LocalWork(lambda: value))

    def steps() -> Steps[list[Any]]:
        yield Pause(1.5)
        try:
            yield from failing()
        except ZeroDivisionError:
            found: list[Came] = yield Together([one(1), failing(), one(3)], 2)
        return [type(each.error) if each.error else each.get() for each in found]

    assert drive(NO_GATEWAY, steps()) == [1, ZeroDivisionError, 3]
    assert slept == [1.5]
    with pytest.raises(ZeroDivisionError):
        drive(NO_GATEWAY, failing())


def test_outcomes_come_by_their_indices() -> None:
    error = ValueError("wrong")
    came = {1: Came("b"), 0: Came(error=error), 2: Came(ValueError("a value"))}
    assert work.in_order(came, return_exceptions=True)[:2] == [error, "b"]
    with pytest.raises(ValueError, match="wrong"):
        work.in_order(came, return_exceptions=False)
    del came[0]
    assert [str(value) for value in work.in_order(came, return_exceptions=False)] == ["b", "a value"]


def test_a_job_is_never_told_older_than_its_tasks() -> None:
    """Between its count and the list of its tasks one more has ended."""
    counts = [{"SUCCEEDED": 1, "RUNNING": 1}, {"SUCCEEDED": 2}]
    ended = pb.ListJobTasksResponse(
        success=True, tasks=[pb.TaskStatus(task_id=f"job.{index}", status="COMPLETED") for index in (0, 1)]
    )

    class Gateway:
        tasks = SimpleNamespace(GetJob="GetJob", ListJobTasks="ListJobTasks")

        def call(self, method: str, _request: object, **_options: object) -> object:
            if method == "ListJobTasks":
                return ended
            return pb.GetJobResponse(success=True, job=pb.Job(job_id="job", tasks=2, counts=counts.pop(0)))

    following = work.Following("job")
    found = drive(cast(GatewayChannel, Gateway()), following.next())
    assert [task.task_id for task in found] == ["job.0", "job.1"]
    assert following.is_over
    assert following.job.counts == {TaskState.SUCCEEDED: 2}
