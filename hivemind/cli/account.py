"""`hivemind register`, `login`, `logout`, `whoami`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

import click

from hivemind import config
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect
from hivemind.cli.render.tasks import jsonable
from hivemind.errors import ConfigError, NotLoggedInError
from hivemind.models import Identity
from hivemind.sdk import NodePoolClient
from hivemind.tokens import read_token

_MAX_PASSWORD_LINE = 4096

_password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
)


@click.command()
@click.argument("username")
@_password_option
@json_option
@pass_app
def register(app: App, username: str, *, password_stdin: bool) -> None:
    """Make the account USERNAME and log in."""
    connection = app.connection()
    with connect(app, connection) as pool:
        password = _password(app, from_stdin=password_stdin, confirm=True)
        pool.register(username, password)
        _login(app, connection, pool, username, password)


@click.command()
@click.argument("username", required=False)
@_password_option
@json_option
@pass_app
def login(app: App, username: str | None, *, password_stdin: bool) -> None:
    """Get a token for USERNAME [default: who logged in last] and keep it."""
    connection = app.connection()
    chosen = username or connection.username
    if not chosen:
        raise click.UsageError("name the user: `hivemind login USERNAME`")
    with connect(app, connection) as pool:
        password = _password(app, from_stdin=password_stdin, confirm=False)
        _login(app, connection, pool, chosen, password)


@click.command()
@click.option(
    "--password-stdin", is_flag=True, help="Read the old and the new password from two lines of stdin."
)
@json_option
@pass_app
def passwd(app: App, *, password_stdin: bool) -> None:
    """Change your password. Every other login of the account ends, agents' too."""
    connection = app.connection()
    with connect(app, connection) as pool:
        username = pool.whoami().username
        if password_stdin:
            old, new = _stdin_line(), _stdin_line()
        else:
            old = click.prompt("Old password", hide_input=True, err=True)
            new = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
        identity = pool.change_password(old, new)
        done = f"the password of {username} is changed; every other login has ended"
        _keep(app, connection, pool, identity, done)


@click.command()
@json_option
@pass_app
def logout(app: App) -> None:
    """Forget the token kept for the gateway."""
    connection = app.connection()
    profile = config.load(app.profile_path)
    had_token = bool(profile.account_for(connection.gateway).token)
    if had_token:
        config.save(app.profile_path, profile.without_token(connection.gateway))
    if app.json:
        app.answer({"gateway": connection.gateway, "logged_out": had_token})
    else:
        app.notice(f"logged out of {connection.gateway}" if had_token else "there was no token")
    _warn_of_token_variable(app)


@click.command()
@json_option
@pass_app
def whoami(app: App) -> None:
    """Who the token says you are. Asks nobody: the token is read, not verified."""
    connection = app.connection()
    if not connection.token:
        raise NotLoggedInError(f"you are not logged in to {connection.gateway}")
    identity = read_token(connection.token)
    if identity.expired(time.time()):
        raise NotLoggedInError(f"the login of {identity.username} to {connection.gateway} has expired")
    if app.json:
        app.answer({**jsonable(identity), "gateway": connection.gateway})
    else:
        app.say(f"{identity.username} at {connection.gateway}, until {_moment(identity)}")


def _login(
    app: App, connection: config.Connection, pool: NodePoolClient, username: str, password: str
) -> None:
    identity = pool.login(username, password)
    done = f"logged in to {connection.gateway} as {username}, until {_moment(identity)}"
    _keep(app, connection, pool, identity, done)


def _keep(
    app: App, connection: config.Connection, pool: NodePoolClient, identity: Identity, done: str
) -> None:
    """The token in use, for the commands after this one."""
    account = config.account_of(connection, username=identity.username, token=pool.token)
    profile = config.load(app.profile_path).with_account(connection.gateway, account)
    config.save(app.profile_path, profile)
    if app.json:
        app.answer({**jsonable(identity), "gateway": connection.gateway})
    else:
        app.notice(done)
    _warn_of_token_variable(app)


def _password(app: App, *, from_stdin: bool, confirm: bool) -> str:
    """Never from the command line, where every user of the machine could read it."""
    if from_stdin:
        return _stdin_line()
    kept = app.environment.get(config.ENV_PASSWORD, "")
    if kept:
        return kept
    if not sys.stdin.isatty():
        raise ConfigError(
            "there is no terminal to ask for the password", hint="use --password-stdin or HIVEMIND_PASSWORD"
        )
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return password


def _stdin_line() -> str:
    line = sys.stdin.readline(_MAX_PASSWORD_LINE).rstrip("\r\n")
    if not line:
        raise click.UsageError("--password-stdin: there is no password on stdin")
    return line


def _warn_of_token_variable(app: App) -> None:
    if app.environment.get(config.ENV_TOKEN):
        app.notice(f"note: {config.ENV_TOKEN} is set and wins over what is kept")


def _moment(identity: Identity) -> str:
    if not identity.expires_at:
        return "further notice"
    return f"{datetime.fromtimestamp(identity.expires_at, UTC).astimezone():%Y-%m-%d %H:%M}"
