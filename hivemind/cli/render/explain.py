"""How an explanation looks to people: a sentence, what was in the way, what would help, and the price.

Knows rich; knows neither the connection nor click. Whatever a pool says goes through `one_line`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import STATE_STYLES, bytes_text, count_text, days_text
from hivemind.explanation import Explanation, Suggestion
from hivemind.needs import TaskNeeds
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState

# A pool's list is short; what it says beyond that is not for eyes.
_MAX_LINES = 20
_STATE_WORDS = {
    TaskState.QUEUED: "is queued",
    TaskState.WAITING: "is waiting",
    TaskState.PLACED: "is placed",
    TaskState.RUNNING: "is running",
    TaskState.SUCCEEDED: "has succeeded",
    TaskState.FAILED: "has failed",
    TaskState.STOPPED: "was stopped",
}
# Values that ask for nothing: the option is left out then.
_NOT_ASKED_FOR = frozenset({"", "0", "any", "false", "none"})


def explanation_view(told: Explanation) -> Group:
    words, style = (_STATE_WORDS[told.state], STATE_STYLES[told.state]) if told.state else ("", "")
    sentence = Text.assemble((one_line(told.task_id), "bold"), " ", (words, style))
    message = one_line(told.message)
    state = words.split(" ")[-1]
    if state and message.startswith(state):  # "running on node bob/pc": once is enough
        sentence.append(message.removeprefix(state))
    elif message:
        sentence.append(f": {message}")
    return Group(sentence, *_details(told))


def quote_view(told: Explanation) -> Group:
    """Of a dry run: the verdict in two words, then the same as for a task."""
    if told.places_now:
        where = f" on {one_line(told.best_node)}" if told.best_node else ""
        verdict = Text(f"would run now{where}", "bold green")
    elif told.waits_for_others:
        verdict = Text("would be accepted and wait for other tasks", "bold yellow")
    elif told.can_never_run:
        verdict = Text(
            "would be accepted, but no node could run it: it would wait until one joins", "bold red"
        )
    else:
        verdict = Text("would be accepted and wait", "bold yellow")
    message = [] if told.places_now or not told.message else [Text(one_line(told.message))]
    return Group(verdict, *message, *_details(told))


def option_of(suggestion: Suggestion) -> str:
    """A suggested change as `hivemind submit` takes it, or empty when it is not the user's to make."""
    name = suggestion.field
    if name not in TaskNeeds.__dataclass_fields__:
        return ""
    option = "--" + name.replace("_", "-")
    value = one_line(suggestion.value)
    if value.casefold() in _NOT_ASKED_FOR:
        return f"without {option}"
    if name == "network":
        return option
    return f"{option} {_quoted(value)}"


def _details(told: Explanation) -> Iterator[RenderableType]:
    if told.failed:
        yield Text()
        yield _clauses(told)
    shown = told.suggestions[:_MAX_LINES]
    yours = [each for each in shown if option_of(each)]
    others = [each for each in shown if not option_of(each)]
    if yours:
        yield Text()
        yield Text("What you can change, as options of `hivemind submit`:", "bold")
        yield _suggestions(yours)
    if others:
        yield Text()
        yield Text("What others can do:", "bold")
        yield _suggestions(others)
    facts = list(_facts(told))
    if facts:
        yield Text()
        table = PlainTable.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in facts:
            table.add_row(name, Text(text))
        yield table


def _clauses(told: Explanation) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("NODES", justify="right", no_wrap=True)
    table.add_column("IN THE WAY", overflow="fold")
    for each in told.failed[:_MAX_LINES]:
        table.add_row(str(each.nodes), Text(one_line(each.clause)))
    rest = sum(each.nodes for each in told.failed[_MAX_LINES:])
    if rest:
        table.add_row(str(rest), "for other reasons")
    fitting = told.nodes_looked_at - sum(each.nodes for each in told.failed)
    if fitting > 0:
        table.add_row(Text(str(fitting), "green"), Text("nothing: could take it now", "green"))
    table.add_row(Text(str(told.nodes_looked_at), "bright_black"), Text("looked at in all", "bright_black"))
    return table


def _suggestions(suggestions: Sequence[Suggestion]) -> RenderableType:
    table = PlainTable.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for each in suggestions:
        table.add_row(f"  {option_of(each) or '·'}", _effect(each))
    return table


def _effect(suggestion: Suggestion) -> str:
    sentence = one_line(suggestion.sentence)
    if not suggestion.nodes:  # not now; the sentence says when
        return sentence
    now = f"would place it now on {count_text(suggestion.nodes, 'node')}"
    if suggestion.field == "location_mode":  # not at once: the sentence says after how long
        return f"{sentence} ({count_text(suggestion.nodes, 'node')})"
    return now if option_of(suggestion) else f"{sentence} ({now})"


def _facts(told: Explanation) -> Iterator[tuple[str, str]]:
    if told.position:
        waiting = max(told.position, told.waiting_tasks)
        yield "place in the wait queue", f"{told.position:,} of {waiting:,} waiting"
    ended = told.state in FINAL_TASK_STATES
    if (told.position or told.estimate_basis) and not ended:
        basis = f" ({one_line(told.estimate_basis)})" if told.estimate_basis else ""
        yield "expected wait", _about(told.estimated_wait_seconds) + basis
    if told.price_per_minute_cpt:
        most = f", at most {told.max_price_cpt:,} CPT" if told.max_price_cpt else ""
        span = f" for {count_text(told.max_minutes, 'minute')}" if told.max_minutes else ""
        span += ", which is what your balance covers" if told.minutes_by_balance else ""
        runs = told.max_price_cpt // max(1, told.price_per_minute_cpt * max(1, told.max_minutes))
        span += f" in each of {runs} runs" if runs > 1 and told.max_minutes else ""
        yield "price", f"{told.price_per_minute_cpt:,} CPT for each started minute{most}{span}"
    if told.stored_bytes_limit:
        stay = f"; results stay {days_text(told.result_days)}" if told.result_days else ""
        kept = f"{bytes_text(told.stored_bytes)} of {bytes_text(told.stored_bytes_limit)}"
        yield "kept in the pool", f"{kept}{stay}"


def _quoted(value: str) -> str:
    """Somebody's words, for a shell: what it would take apart or run is put in quotes."""
    quoted = shlex.quote(value)
    return f'"{value}"' if quoted == f"'{value}'" and value.replace(" ", "").isalnum() else quoted


def _about(seconds: float | None) -> str:
    """No more exact than an estimate is."""
    if seconds is None:
        return "unknown"
    if seconds == 0:
        return "none"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {round(seconds / 3600)} h"
