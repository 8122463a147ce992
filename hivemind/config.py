"""Which pool, as whom: the profile on disk, the environment, and the command line's options.

The environment wins over the profile and the command line over both. A token is kept with the
addresses of the pool's gateways and is never sent to another one.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hivemind.errors import ConfigError
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.gateway_choice import gateway_addresses
from nodepool.home import home

ENV_GATEWAY = "HIVEMIND_GATEWAY"
ENV_TOKEN = "HIVEMIND_TOKEN"  # noqa: S105 - the name of a variable
ENV_PASSWORD = "HIVEMIND_PASSWORD"  # noqa: S105
ENV_TLS = "HIVEMIND_TLS"
ENV_CA_FILE = "HIVEMIND_CA_FILE"
ENV_PLAINTEXT = "HIVEMIND_ALLOW_INSECURE_PLAINTEXT"
ENV_RETRY = "HIVEMIND_RETRY_SECONDS"

DEFAULT_GATEWAY = "localhost:50051"
DEFAULT_RETRY_SECONDS = 60.0
_MOST_RETRY_SECONDS = 86400.0
_MAX_PROFILE_BYTES = 1 << 20
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is kept for one gateway."""

    username: str = ""
    token: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""
    allow_insecure_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    gateway: str = ""  # the one that was logged in to last
    accounts: Mapping[str, Account] = field(default_factory=dict)

    def with_account(self, gateway: str, account: Account) -> Profile:
        others = {
            name: kept
            for name, kept in self.accounts.items()
            if set(name.split(",")) != set(gateway.split(","))
        }
        return Profile(gateway=gateway, accounts={**others, gateway: account})

    def without_token(self, gateway: str) -> Profile:
        name = self.name_for(gateway)
        if name is None:
            return self
        account = replace(self.accounts[name], token="")
        return replace(self, accounts={**self.accounts, name: account})

    def name_for(self, gateway: str) -> str | None:
        """Under which the account is kept for these very gateways, in whatever order, or for a pool that they
        are some of: its token was meant for them."""
        asked = set(gateway.split(","))
        fitting = [name for name in self.accounts if asked <= set(name.split(","))]
        return min(fitting, key=lambda name: (name != gateway, len(name.split(","))), default=None)

    def account_for(self, gateway: str) -> Account:
        name = self.name_for(gateway)
        return Account() if name is None else self.accounts[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLineOptions:
    """What the command line says; None where it says nothing."""

    gateway: str | None = None
    tls: bool | None = None
    ca_file: str | None = None
    allow_insecure_plaintext: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What is used: the outcome of profile, environment and options."""

    gateway: str  # or several, with commas between
    username: str
    token: str = field(repr=False)
    tls: bool
    ca_file: str
    allow_insecure_plaintext: bool
    # For how long a pool that cannot be reached is tried again.
    retry_seconds: float = DEFAULT_RETRY_SECONDS


def profile_path(environment: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/hivemind/profile.json`, by default under `~/.config`."""
    base = environment.get("XDG_CONFIG_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    root = Path(base) if base and Path(base).is_absolute() else home(environment) / ".config"
    return root / "hivemind" / "profile.json"


def load(path: Path) -> Profile:
    """The profile, empty when there is none. Raises ConfigError when it is broken or others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read(_MAX_PROFILE_BYTES + 1)
    except FileNotFoundError:
        return Profile()
    except OSError as error:
        raise ConfigError(f"the profile {path} cannot be read: {error.strerror or error}") from error
    if mode & 0o077:
        raise ConfigError(
            f"the profile {path} can be read by others (mode {mode:03o}), so the token in it is not safe",
            hint=f"run `chmod 600 {path}`, then `hivemind login` for a new token",
        )
    try:
        return _profile(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the profile {path} is damaged: {error}", hint="remove it and run `hivemind login`"
        ) from error


def save(path: Path, profile: Profile) -> None:
    """Write the profile with mode 0600 in a folder with mode 0700: whole, or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.parent.chmod(0o700)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(profile), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"the profile {path} cannot be written: {error.strerror or error}") from error


def resolve(profile: Profile, environment: Mapping[str, str], options: CommandLineOptions) -> Connection:
    """Command line over environment over profile over defaults."""
    said = options.gateway or environment.get(ENV_GATEWAY) or profile.gateway or DEFAULT_GATEWAY
    try:
        gateway = ",".join(gateway_addresses((said,)))
    except InvalidInputError as error:
        raise ConfigError(str(error)) from error
    account = profile.account_for(gateway)
    return Connection(
        gateway=gateway,
        username=account.username,
        token=environment.get(ENV_TOKEN) or account.token,
        tls=_chosen(environment, ENV_TLS, option=options.tls, kept=account.tls),
        ca_file=options.ca_file or environment.get(ENV_CA_FILE) or account.ca_file,
        allow_insecure_plaintext=_chosen(
            environment,
            ENV_PLAINTEXT,
            option=options.allow_insecure_plaintext,
            kept=account.allow_insecure_plaintext,
        ),
        retry_seconds=_seconds(environment, ENV_RETRY, DEFAULT_RETRY_SECONDS),
    )


def account_of(connection: Connection, *, username: str, token: str) -> Account:
    """What to keep after a login over this connection."""
    return Account(
        username=username,
        token=token,
        tls=connection.tls,
        # The profile is used from other directories too.
        ca_file=str(Path(connection.ca_file).resolve()) if connection.ca_file else "",
        allow_insecure_plaintext=connection.allow_insecure_plaintext,
    )


def _chosen(environment: Mapping[str, str], name: str, *, option: bool | None, kept: bool) -> bool:
    if option is not None:
        return option
    word = environment.get(name, "").strip().casefold()
    if word in _TRUE:
        return True
    if word not in _FALSE:
        raise ConfigError(f"{name} must be 1 or 0, not {word[:40]!r}")
    return kept if name not in environment else False


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_RETRY_SECONDS:
        raise ConfigError(
            f"{name} must be a number of seconds, 0 to {_MOST_RETRY_SECONDS:g}, not {text[:40]!r}"
        )
    return seconds


def _profile(data: Any) -> Profile:
    accounts = {
        _text(gateway): Account(
            username=_text(account.get("username", "")),
            token=_text(account.get("token", "")),
            tls=account.get("tls") is True,
            ca_file=_text(account.get("ca_file", "")),
            allow_insecure_plaintext=account.get("allow_insecure_plaintext") is True,
        )
        for gateway, account in data.get("accounts", {}).items()
    }
    return Profile(gateway=_text(data.get("gateway", "")), accounts=accounts)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value
