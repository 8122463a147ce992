"""How explanations and the records of attempts look."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from hivemind.cli.render.explain import explanation_view, option_of, quote_view
from hivemind.cli.render.tasks import task_details
from hivemind.explanation import Explanation, FailedClause, Suggestion
from hivemind.models import AttemptInfo, TaskInfo
from nodepool.domain.tasks.states import TaskState


def shown(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def suggestion(field: str, value: str, sentence: str = "do it", nodes: int = 1) -> Suggestion:
    return Suggestion(field=field, value=value, sentence=sentence, nodes=nodes)


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("memory_gb", "8", "--memory-gb 8"),
        ("memory_gb", "0", "without --memory-gb"),
        ("gpu_name", "RTX 4090", '--gpu-name "RTX 4090"'),
        ("gpu_name", 'a"; rm -rf $HOME', "--gpu-name 'a\"; rm -rf $HOME'"),
        ("gpu_name", "Any", "without --gpu-name"),
        ("location", "south-america", "--location south-america"),
        ("location", "Any", "without --location"),
        ("min_trust", "any", "without --min-trust"),
        ("location_mode", "prefer", "--location-mode prefer"),
        ("network", "false", "without --network"),
        ("network", "true", "--network"),
        ("node_id", "any", ""),
        ("", "", ""),
        ("__class__", "x", ""),
    ],
)
def test_a_suggestion_is_an_option_as_it_is_typed(field: str, value: str, option: str) -> None:
    assert option_of(suggestion(field, value)) == option


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (suggestion("memory_gb", "8", nodes=3), "  --memory-gb 8  would place it now on 3 nodes"),
        (suggestion("memory_gb", "8", nodes=1), "  --memory-gb 8  would place it now on 1 node"),
        # Not now: the sentence says when.
        (suggestion("memory_gb", "8", "once idle", 0), "  --memory-gb 8  once idle"),
        (suggestion("location_mode", "prefer", "later", 2), "  --location-mode prefer  later (2 nodes)"),
        (suggestion("", "", "resume bob/pc", 1), "  ·  resume bob/pc (would place it now on 1 node)"),
        (suggestion("", "", "another node joins", 0), "  ·  another node joins"),
    ],
)  # fmt: skip
def test_a_suggestion_says_what_it_would_do(told: Suggestion, line: str) -> None:
    lines = shown(explanation_view(Explanation(task_id="t", message="", suggestions=(told,))))
    assert lines[-1] == line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0.0, "none"),
        (0.2, "about 1 s"),
        (75.0, "about 75 s"),
        (250.0, "about 4 min"),
        (9000.0, "about 2 h"),
    ],
)
def test_an_estimate_is_no_more_exact_than_it_is(seconds: float | None, words: str) -> None:
    told = Explanation(task_id="t", message="", position=1, waiting_tasks=1, estimated_wait_seconds=seconds)
    lines = [" ".join(line.split()) for line in shown(explanation_view(told))]
    assert f"expected wait {words}" in lines


def test_a_narrow_terminal_still_has_all_of_it() -> None:
    told = Explanation(
        task_id="t",
        message="waiting: looked at 12 nodes: 9 too small: memory, 3 busy: cpu_score",
        state=TaskState.QUEUED,
        nodes_looked_at=12,
        failed=(FailedClause(clause="trust tier above what the owner's credit opens", nodes=12),),
        suggestions=(suggestion("", "", "the owner of bob/pc resumes it: it is draining"),),
        price_per_minute_cpt=5,
        max_price_cpt=300,
        max_minutes=60,
    )
    text = " ".join(" ".join(shown(explanation_view(told), 40)).split())
    for word in ("credit", "draining", "60 minutes", "12 looked at in all"):
        assert word in text


@pytest.mark.parametrize(
    ("state", "message", "sentence"),
    [
        (TaskState.RUNNING, "running on node bob/pc", "t is running on node bob/pc"),
        (TaskState.STOPPED, "stopped", "t was stopped"),
        (TaskState.FAILED, "exit code 3", "t has failed: exit code 3"),
        (TaskState.PLACED, "given to node bob/pc", "t is placed: given to node bob/pc"),
        (TaskState.QUEUED, "", "t is queued"),
    ],
)
def test_an_explanation_begins_with_one_sentence(state: TaskState, message: str, sentence: str) -> None:
    assert shown(explanation_view(Explanation(task_id="t", message=message, state=state))) == [sentence]


def test_a_quote_is_a_verdict_first() -> None:
    assert shown(quote_view(Explanation(task_id="", message="", places_now=True, best_node="bob/pc"))) == [
        "would run now on bob/pc"
    ]
    assert shown(quote_view(Explanation(task_id="", message="3 busy"))) == [
        "would be accepted and wait",
        "3 busy",
    ]


def test_attempts_fit_80_columns_and_keep_where_how_and_why() -> None:
    def attempt(**fields: Any) -> AttemptInfo:
        values: dict[str, Any] = {
            "number": 1, "node": "operator/agent-1", "state": "finished", "queue_seconds": 12.0,
            "placed_at": 100.0, "started_at": 101.0, "finished_at": 131.0, "cpu_seconds": 29.0,
            "peak_memory_bytes": 1 << 26,
            "bytes_in": 2048, "bytes_out": 4096, "exit_code": 0,
        }  # fmt: skip
        return AttemptInfo(**values | fields)

    task = TaskInfo(
        task_id="t",
        status="RUNNING",
        state=TaskState.RUNNING,
        attempts=(
            attempt(state="lost", reason="the node did not report for 15 s", exit_code=None),
            attempt(number=2, finished_at=None, exit_code=None),
        ),
    )
    lines = shown(task_details(task, now=161.0))
    text = " ".join(" ".join(lines).split())
    assert "1 operator/agent-1 lost 12 s" in text
    assert "2 operator/agent-1 finished 12 s" in text
    assert "the node did" in text
    wide = shown(task_details(task, now=161.0), 200)
    record = "2 operator/agent-1 finished 12 s 1.0 s 1 min 0 s 29 s 64.0 MiB 2.0 KiB 4.0 KiB"
    assert " ".join(wide[-1].split()) == record


def test_an_attempt_that_has_not_started_shows_no_amounts() -> None:
    fresh = AttemptInfo(number=1, node="n", state="assigned", queue_seconds=0.5, placed_at=100.0)
    task = TaskInfo(task_id="t", status="PENDING", state=TaskState.PLACED, attempts=(fresh,))
    assert shown(task_details(task, now=161.0))[-1].split() == ["1", "n", "assigned", "0.5", "s"]
