"""The root of the `hivemind` command: global options, finding commands, errors and exit codes.

Imports click and nothing heavy, so that help and completion are quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from hivemind.cli import plugins
from hivemind.cli.app import App
from hivemind.cli.completing import VARIABLE
from hivemind.cli.render.plain_text import json_line, one_line
from hivemind.config import CommandLineOptions
from hivemind.errors import EXIT_CODE_MEANINGS, ClientError, ExitCode
from nodepool.domain.errors import InvalidInputError, NodePoolError
from nodepool.starting import DISTRIBUTION, missing

_BROKEN_PIPE_EXIT = 141  # 128 + SIGPIPE, what a shell shows for it

# name -> (where it is, what it does)
_COMMANDS = {
    "register": ("hivemind.cli.account:register", "Make an account and log in."),
    "login": ("hivemind.cli.account:login", "Get a token and keep it."),
    "logout": ("hivemind.cli.account:logout", "Forget the token."),
    "whoami": ("hivemind.cli.account:whoami", "Who you are, and until when."),
    "submit": ("hivemind.cli.submit:submit", "Send a directory or ZIP as a task."),
    "ls": ("hivemind.cli.listing:ls", "Your tasks, newest first."),
    "status": ("hivemind.cli.tasks:status", "All about one task."),
    "explain": ("hivemind.cli.explain:explain", "Why a task waits, and what would place it."),
    "logs": ("hivemind.cli.tasks:logs", "What tasks printed."),
    "wait": ("hivemind.cli.waiting:wait", "Wait for the end of tasks and jobs."),
    "stop": ("hivemind.cli.tasks:stop", "Stop tasks and jobs."),
    "resubmit": ("hivemind.cli.resubmit:resubmit", "Run tasks that have ended once more."),
    "run": ("hivemind.cli.flows:run", "Send a flow: steps that come after each other."),
    "job": ("hivemind.cli.jobs:job", "Many tasks with one id: status, results, stop."),
    "rm": ("hivemind.cli.tasks:rm", "Delete tasks that have ended."),
    "result": ("hivemind.cli.results:result", "Fetch the files of tasks."),
    "secret": ("hivemind.cli.secret:secret", "Tokens and keys that only your runs are given."),
    "notify": ("hivemind.cli.notify:notify", "Be told when tasks end, by webhook or mail."),
    "nodes": ("hivemind.cli.nodes:nodes", "The pool's nodes and their load."),
    "top": ("hivemind.cli.top:top", "The nodes, live."),
    "node": ("hivemind.cli.nodes:node", "Drain or resume a node of yours."),
    "balance": ("hivemind.cli.money:balance", "Your CPT."),
    "transfer": ("hivemind.cli.money:transfer", "Give CPT to another user."),
    "ledger": ("hivemind.cli.money:ledger", "What moved on your account."),
    "credit": ("hivemind.cli.money:credit", "Your credit score, and why it is so."),
    "passwd": ("hivemind.cli.account:passwd", "Change your password."),
    "completion": ("hivemind.cli.completing:completion", "For the shell: complete words with TAB."),
    "admin": ("hivemind.cli.admin:admin", "For operators: CPT, scores, users, disputes."),
}

_EPILOG = (
    "\b\nExit codes:\n"
    + "\n".join(f"  {int(code):3}  {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items())
    + "\n  `submit --follow`, `logs -f --exit-status` and `wait` exit with the task's own code, 128+n for"
    + "\n  signal n; of several with the largest of those that failed, else 130 for a stop, else 0."
    + "\n  `submit --dry-run` exits with 0 when the pool would accept the task, also when it would wait."
    + "\n\n\b\nEnvironment (wins over the profile, loses to options):\n"
    "  HIVEMIND_GATEWAY, HIVEMIND_TOKEN, HIVEMIND_PASSWORD, HIVEMIND_TLS, HIVEMIND_CA_FILE,\n"
    "  HIVEMIND_ALLOW_INSECURE_PLAINTEXT\n"
    "  HIVEMIND_RETRY_SECONDS: for how long a pool that cannot be reached is tried again [default: 60]"
)


class _ReaderLeftError(Exception):
    """Whoever read our output has enough."""


class _LazyGroup(click.Group):
    """Knows its commands by name and loads one when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*_COMMANDS, *(name for name in plugins.names(plugins.COMMANDS) if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name in _COMMANDS:
            module, attribute = _COMMANDS[cmd_name][0].split(":")
            found: click.Command = getattr(import_module(module), attribute)
            return found
        return plugins.load(plugins.COMMANDS, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is not None or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        # Newer versions of click guess, too, among commands that are loaded, and none of these is.
        close = get_close_matches(args[0], self.list_commands(ctx), n=3)
        guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise click.UsageError(f"No such command {args[0]!r}.{guess}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=_COMMANDS[name][1] if name in _COMMANDS else None)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click would end the process itself, with the exit code of a failure.
            raise _ReaderLeftError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (
                name,
                _COMMANDS[name][1] if name in _COMMANDS else f"See `hivemind {name} --help`.",
            )
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--gateway",
    "gateways",
    metavar="HOST:PORT",
    multiple=True,
    help="The pool's gateway; several, or with commas between: whichever can be reached "
    "[default: of the last login].",
)
@click.option("--tls/--no-tls", default=None, help="Encrypt the connection.")
@click.option("--ca-file", metavar="PEM", help="Whom to trust with TLS [default: the system's authorities].")
@click.option(
    "--allow-insecure-plaintext",
    is_flag=True,
    default=None,
    help="Send token and code unencrypted to another machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout, errors in JSON on stderr.")
@click.version_option(package_name=DISTRIBUTION, prog_name="hivemind")
@click.pass_context
def cli(
    context: click.Context,
    *,
    gateways: tuple[str, ...],
    tls: bool | None,
    ca_file: str | None,
    allow_insecure_plaintext: bool | None,
    as_json: bool,
) -> None:
    """Run code on a pool of other people's computers."""
    app = context.ensure_object(App)
    app.json = app.json or as_json
    app.options = CommandLineOptions(
        gateway=",".join(gateways) or None,
        # Without TLS the file would be ignored without a word.
        tls=True if ca_file and tls is None else tls,
        ca_file=ca_file,
        allow_insecure_plaintext=allow_insecure_plaintext,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and answer its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    app = App(environment=os.environ)
    # Else gRPC's own log lines stand beside the error that a script reads. It looks once, when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _make_writable()
    try:
        code = cli.main(
            args=words, prog_name="hivemind", standalone_mode=False, obj=app, complete_var=VARIABLE
        )
        sys.stdout.flush()
    except click.ClickException as error:
        _tell_click(error, as_json=app.json or "--json" in _own(words))
        return error.exit_code
    except ClientError as error:
        return _tell(app, error.code, str(error), error.hint, error.exit_code)
    except InvalidInputError as error:
        return _tell(app, "refused", str(error), "", ExitCode.REFUSED)
    except NodePoolError as error:
        return _tell(app, "failure", str(error), "", ExitCode.FAILURE)
    except ModuleNotFoundError as error:
        # A command's own packages are imported when it is run.
        if not (problem := missing(error, "client")):
            raise
        return _tell(app, "usage", problem, "", ExitCode.USAGE)
    except (_ReaderLeftError, OSError) as error:
        return _tell_system(app, error)
    except (KeyboardInterrupt, click.Abort):
        return _tell(app, "interrupted", "interrupted", "", ExitCode.INTERRUPTED)
    return code if isinstance(code, int) else ExitCode.OK


def _give_stdout_up() -> None:
    """The interpreter's last flush would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_system(app: App, error: _ReaderLeftError | OSError) -> int:
    """What this machine refuses: a pipe that nobody reads, a full disk, a folder that is not ours."""
    if isinstance(error, _ReaderLeftError | BrokenPipeError):
        _give_stdout_up()
        return _BROKEN_PIPE_EXIT
    try:
        sys.stdout.flush()
    except OSError:
        _give_stdout_up()
    # Of what is written Python does not say where to.
    where = error.filename or "what was to be written"
    return _tell(app, "failure", f"{where}: {error.strerror or error}", "", ExitCode.FAILURE)


def _own(words: list[str]) -> list[str]:
    """Without what is a task's own."""
    return words[: words.index("--")] if "--" in words else words


def _make_writable() -> None:
    """A console that has not all characters (cp950, latin-1, ascii) is shown marks for the others, and who
    closed a stream (`>&-`) is shown nothing on it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _tell(app: App, code: str, message: str, hint: str, exit_code: int) -> int:
    line = " ".join(message.split()).rstrip(".")
    if app.json:
        error = {"code": code, "message": line, "hint": hint, "exit_code": int(exit_code)}
        click.echo(json_line({"error": error}), err=True)
    else:
        click.echo(one_line(f"error: {line}" + (f"; {hint}" if hint else "")), err=True)
    return int(exit_code)


def _tell_click(error: click.ClickException, *, as_json: bool) -> None:
    if as_json:
        problem = {
            "code": "usage",
            "message": error.format_message(),
            "hint": "",
            "exit_code": error.exit_code,
        }
        click.echo(json_line({"error": problem}), err=True)
    else:
        error.show()
