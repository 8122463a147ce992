"""`hivemind admin disk`."""

from __future__ import annotations

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect
from hivemind.cli.render.disk import disk_view
from hivemind.cli.render.tasks import jsonable, show

_days = click.FloatRange(min=0)


@click.command()
@click.option("--dry-run", "is_dry", is_flag=True, help="Also what the pool would remove now.")
@click.option("--result-days", type=_days, help="With --dry-run: as if RESULT_DAYS were this; 0: for ever.")
@click.option("--log-days", type=_days, help="The same of LOG_DAYS.")
@click.option("--task-days", type=_days, help="The same of TASK_DAYS.")
@click.option(
    "--users", type=click.IntRange(1, 1000), default=20, show_default=True, help="Those who keep most."
)
@json_option
@pass_app
def disk(
    app: App,
    *,
    is_dry: bool,
    result_days: float | None,
    log_days: float | None,
    task_days: float | None,
    users: int,
) -> None:
    """What the pool keeps, and for whom. The dispatcher removes by itself; this command removes nothing."""
    asked = (result_days, log_days, task_days)
    if not is_dry and any(days is not None for days in asked):
        raise click.UsageError("--result-days, --log-days and --task-days go with --dry-run")
    with connect(app) as pool:
        found = pool.operator.disk(
            result_days=result_days, log_days=log_days, task_days=task_days, users=users
        )
    if app.json:
        told = jsonable(found)
        app.answer(told if is_dry else {name: it for name, it in told.items() if name != "would_go"})
    else:
        show(disk_view(found, with_what_would_go=is_dry))
