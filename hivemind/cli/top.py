"""`hivemind top`: the nodes, live."""

from __future__ import annotations

import sys
import time

import click
from rich.live import Live

from hivemind.channel import RetryPolicy
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect
from hivemind.cli.keys import Keys
from hivemind.cli.render.tasks import jsonable, stdout_console
from hivemind.cli.render.top_screen import Snapshot, TopScreen
from hivemind.errors import UnreachableError
from hivemind.nodes import NodeOrder, in_order, totals_of
from hivemind.sdk import NodePoolClient

# A screen is no place to wait for: better an old picture that says so.
_DEADLINE_SECONDS = 10.0
_ONE_TRY = RetryPolicy(attempts=1)
# How soon a window of another size is filled again.
_LOOK_SECONDS = 0.25
_ORDERS = {"l": NodeOrder.LOAD, "n": NodeOrder.NAME, "t": NodeOrder.TIER, "k": NodeOrder.TASKS}
_KEYS = "l load  n name  t tier  k tasks  q quit"


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    default=2.0,
    help="Seconds between looks [default: 2].",
)
@click.option("--once", is_flag=True, help="One look, and no screen of its own.")
@click.option(
    "--sort",
    "order",
    type=click.Choice([order.value for order in NodeOrder]),
    default=NodeOrder.LOAD.value,
    help="What comes first [default: load].",
)
@json_option
@pass_app
def top(app: App, *, interval: float, once: bool, order: str) -> None:
    """The pool's nodes, live: tier, region, load, reserved and used, running tasks.

    Without a terminal it prints a table a look, with --json an object a line. Ctrl-C ends it (exit code 0).
    """
    connection = app.connection()
    with connect(app, connection) as patient:
        first = Snapshot(nodes=patient.nodes(), at=time.time())
    view = _View(app, connection.gateway, NodeOrder(order))
    view.snapshot = first
    if once:
        view.print()
        return
    with connect(app, connection, retry=_ONE_TRY, deadline_seconds=_DEADLINE_SECONDS) as pool:
        try:
            if sys.stdout.isatty() and not app.json:
                view.live(pool, interval)
            else:
                view.stream(pool, interval)
        except KeyboardInterrupt:
            return


class _View:
    def __init__(self, app: App, gateway: str, order: NodeOrder) -> None:
        self.snapshot = Snapshot()
        self._app = app
        self._gateway = gateway
        self._order = order

    def look(self, pool: NodePoolClient) -> None:
        try:
            self.snapshot = Snapshot(nodes=pool.nodes(), at=time.time())
        except UnreachableError as error:
            # What was seen last stays, with its age: the pool may be back in a moment.
            self.snapshot = Snapshot(nodes=self.snapshot.nodes, at=self.snapshot.at, problem=str(error))

    def print(self) -> None:
        if self._app.json:
            self._app.answer(self._json())
            return
        console = stdout_console()
        console.print(self._screen(whole=not console.is_terminal))

    def stream(self, pool: NodePoolClient, interval: float) -> None:
        while True:
            self.print()
            sys.stdout.flush()
            time.sleep(interval)
            self.look(pool)

    def live(self, pool: NodePoolClient, interval: float) -> None:
        console = stdout_console()
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                until = time.monotonic() + interval
                size = None
                while (remaining := until - time.monotonic()) > 0:
                    if size != console.size:
                        size = console.size
                        live.update(self._screen(live=True, keys=_KEYS if keys.heard else ""), refresh=True)
                    key = keys.wait(min(remaining, _LOOK_SECONDS))
                    if key == "q":
                        return
                    if key in _ORDERS:
                        self._order = _ORDERS[key]
                        size = None
                self.look(pool)

    def _screen(self, *, keys: str = "", live: bool = False, whole: bool = False) -> TopScreen:
        return TopScreen(
            gateway=self._gateway,
            snapshot=self.snapshot,
            order=self._order,
            now=time.time(),
            keys=keys,
            live=live,
            whole=whole,
        )

    def _json(self) -> dict[str, object]:
        snapshot = self.snapshot
        return {
            "at": snapshot.at,
            "problem": snapshot.problem,
            "totals": jsonable(totals_of(snapshot.nodes)),
            "nodes": [jsonable(node) for node in in_order(snapshot.nodes, self._order)],
        }
