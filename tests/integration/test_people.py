"""People at the gateway: names, passwords, lock-out, tokens that end, and who may be an admin.

In one process with a clock of the test's own where time is what it is about, over gRPC elsewhere.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, select, text, update

from gateway import context
from gateway.auth import passwords
from gateway.auth.tokens import CallerIdentity
from gateway.usecases import accounts, bootstrap_admin
from nodepool.domain.accounts.credentials import name_key
from nodepool.domain.accounts.lockout import FORGOTTEN_AFTER_SECONDS, LONGEST_SECONDS
from nodepool.domain.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    StateConflictError,
    UnauthenticatedError,
)
from nodepool.settings import Settings
from nodepool.stores.sql import logins as login_store, migrate, users as user_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import login_addresses, login_guards, users
from tests.support.databases import sqlite_file
from tests.support.valkey import TestValkey

PASSWORD, OTHER = "a good password", "another good one"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.9"
LOCK_AFTER, LOCK_SECONDS = 3, 10.0


class _Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Pool:
    """The gateway's use cases on a database of their own, with a clock that stands still."""

    def __init__(self, gateway: context.Gateway, clock: _Clock) -> None:
        self.gateway = gateway
        self.clock = clock

    def register(self, name: str, password: str = PASSWORD) -> None:
        accounts.register(self.gateway, name, password)

    def log_in(self, name: str, password: str = PASSWORD, peer: str = HOME) -> CallerIdentity | None:
        issued = accounts.login(self.gateway, name, password, peer)
        return None if issued is None else self.gateway.tokens.read(issued.token)

    def someone(self, name: str = "ada") -> CallerIdentity:
        self.register(name)
        identity = self.log_in(name)
        assert identity is not None
        return identity

    def guess(self, name: str, times: int, peer: str = ELSEWHERE) -> None:
        for _ in range(times):
            assert self.log_in(name, secrets.token_hex(8), peer) is None

    def locked_seconds(self, name: str, peer: str = ELSEWHERE) -> int:
        """0 where a wrong password is looked at."""
        try:
            self.log_in(name, "looked at", peer)
        except RateLimitedError as error:
            return int(str(error).split()[-2])
        return 0

    def set(self, name: str, **values: Any) -> None:
        change = update(users).where(users.c.username == name).values(values)
        self.gateway.database.write(lambda connection: connection.execute(change))

    def role(self, name: str) -> str:
        query = select(users.c.role).where(users.c.username == name)
        return str(self.gateway.database.read(lambda connection: connection.execute(query).scalar_one()))

    def count(self, table: Any) -> int:
        query = select(func.count()).select_from(table)
        return int(self.gateway.database.read(lambda connection: connection.execute(query).scalar_one()))


@contextlib.contextmanager
def opened(database_url: str, folder: Path, valkey: TestValkey, **settings: Any) -> Iterator[Pool]:
    values = {
        "database_url": database_url,
        "redis_url": valkey.url,
        "task_storage_path": folder / "storage",
        "bcrypt_rounds": 4,
        "login_lock_after": LOCK_AFTER,
        "login_lock_seconds": LOCK_SECONDS,
        **settings,
    }
    clock = _Clock()
    gateway = context.build(Settings.model_validate(values), clock)
    try:
        yield Pool(gateway, clock)
    finally:
        gateway.close()


@pytest.fixture
def pool(database_url: str, tmp_path: Path, valkey: TestValkey) -> Iterator[Pool]:
    with opened(database_url, tmp_path, valkey) as made:
        yield made


@pytest.fixture
def sqlite_pool(tmp_path: Path, valkey: TestValkey) -> Iterator[Pool]:
    with opened(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}", tmp_path, valkey) as made:
        yield made


# -- names ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alike", ["Ada", "ADA", "аda", "аԁа"])
def test_a_name_that_people_take_for_one_that_is_there_is_refused(sqlite_pool: Pool, alike: str) -> None:
    sqlite_pool.register("ada")
    with pytest.raises(AlreadyExistsError, match="too much like one that is taken"):
        sqlite_pool.register(alike)
    with pytest.raises(AlreadyExistsError, match="the name ada is taken"):
        sqlite_pool.register("ada")


def test_of_names_that_are_alike_and_come_at_once_one_is_registered(pool: Pool) -> None:
    names = ["ada", "Ada", "ADA", "aDa", "аda", "adа", "Adа", "AdA"]

    def attempt(name: str) -> bool:
        try:
            pool.register(name)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(len(names)) as threads:
        assert sum(threads.map(attempt, names)) == 1
    assert pool.count(users) == 1


def test_names_that_are_alike_already_go_on_and_no_more_of_them_come(
    empty_database_url: str, tmp_path: Path, valkey: TestValkey
) -> None:
    old = Database(empty_database_url)
    _migrate_to(old, "0002")
    password_hash = passwords.hashed(PASSWORD, 4)
    for name in ("Ada", "ada", "ada.", "_root", "admin"):
        insert = text(
            "INSERT INTO users (username, password_hash, credit_score, created_at) "
            "VALUES (:name, :hash, 50, 0)"
        )
        old.write(lambda connection: connection.execute(insert, {"name": name, "hash": password_hash}))  # noqa: B023
    old.close()
    with opened(empty_database_url, tmp_path, valkey) as made:
        for name in ("Ada", "ada", "ada.", "_root", "admin"):
            assert made.log_in(name) is not None
        with pytest.raises(AlreadyExistsError):
            made.register("ADA")
        made.register("bob")
        assert made.log_in("bob") is not None


def _migrate_to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
        else:
            connection.commit()


def test_a_name_is_stored_with_its_key(sqlite_pool: Pool) -> None:
    sqlite_pool.register("Ada.Lovelace")
    query = select(users.c.name_key)
    key = sqlite_pool.gateway.database.read(lambda connection: connection.execute(query).scalar_one())
    assert key == name_key("Ada.Lovelace") == "ada.lovelace"


# -- a wrong name and a wrong password -------------------------------------------------------------------
class _Work:
    """What bcrypt was asked to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.costs: list[bytes] = []
        real = bcrypt.checkpw

        def counted(password: bytes, hashed: bytes) -> bool:
            self.costs.append(hashed[:7])
            return real(password, hashed)

        monkeypatch.setattr(bcrypt, "checkpw", counted)


@pytest.mark.parametrize("name", ["ada", "nobody-here", "", "\0", "x" * 5000, "*"])
@pytest.mark.parametrize("password", ["wrong", "", "x" * 73, PASSWORD + "\0"])
def test_a_wrong_name_costs_the_same_work_as_a_wrong_password(
    sqlite_pool: Pool, monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    sqlite_pool.register("ada")
    passwords.dummy_hash(4)
    work, before = _Work(monkeypatch), sqlite_pool.count(login_guards)
    assert sqlite_pool.log_in(name, password) is None
    assert work.costs == [b"$2b$04$"]
    assert sqlite_pool.count(login_guards) == before + 1


def test_the_dummys_own_password_opens_nothing(sqlite_pool: Pool) -> None:
    assert sqlite_pool.log_in("nobody-here", "nobody's password") is None
    sqlite_pool.register("ada")
    sqlite_pool.set("ada", password_hash="")
    assert sqlite_pool.log_in("ada", "nobody's password") is None


def test_the_pools_own_users_do_not_log_in_and_are_given_nothing(sqlite_pool: Pool) -> None:
    ada = sqlite_pool.someone("ada")
    sqlite_pool.register("bob")
    sqlite_pool.set("bob", role=user_store.SYSTEM_ROLE)
    assert sqlite_pool.log_in("bob") is None
    with pytest.raises(NotFoundError, match="no user of the receiver's name"):
        accounts.transfer(sqlite_pool.gateway, ada, "bob", 1)


# -- lock-out ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ada", "nobody-here", "no name at all"])
def test_wrong_passwords_lock_a_name_for_a_while_whether_it_exists_or_not(pool: Pool, name: str) -> None:
    pool.someone("ada")
    pool.guess(name, LOCK_AFTER)
    for password in (PASSWORD, "wrong again"):
        with pytest.raises(
            RateLimitedError, match="too many wrong passwords for this name; try again in 10 s"
        ):
            pool.log_in(name, password, ELSEWHERE)
    pool.clock.now += LOCK_SECONDS
    assert pool.log_in(name, "wrong again", ELSEWHERE) is None
    assert pool.locked_seconds(name) == 2 * LOCK_SECONDS


def test_a_locked_name_costs_no_work_at_all(sqlite_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_pool.someone("ada")
    for name in ("ada", "nobody-here"):
        sqlite_pool.guess(name, LOCK_AFTER)
    work = _Work(monkeypatch)
    assert sqlite_pool.locked_seconds("ada") == sqlite_pool.locked_seconds("nobody-here") > 0
    assert work.costs == []


def test_each_further_wrong_password_doubles_the_time_up_to_an_hour(sqlite_pool: Pool) -> None:
    sqlite_pool.guess("ada", LOCK_AFTER)
    seconds = []
    for _ in range(12):
        locked = sqlite_pool.locked_seconds("ada")
        seconds.append(locked)
        sqlite_pool.clock.now += locked
        sqlite_pool.guess("ada", 1)
    assert seconds[:5] == [10, 20, 40, 80, 160]
    assert seconds[-1] == LONGEST_SECONDS


def test_a_stranger_who_guesses_does_not_lock_out_the_owner(pool: Pool) -> None:
    pool.someone("ada")
    pool.guess("ada", LOCK_AFTER)
    assert pool.locked_seconds("ada") > 0
    assert pool.log_in("ada", PASSWORD, HOME) is not None
    assert pool.log_in("ada", PASSWORD, HOME) is not None
    # Nor does the owner's own login open the door for who guesses.
    assert pool.locked_seconds("ada") > 0


def test_wrong_passwords_from_where_the_owner_is_are_counted_there(sqlite_pool: Pool) -> None:
    sqlite_pool.someone("ada")
    sqlite_pool.guess("ada", LOCK_AFTER, HOME)
    assert sqlite_pool.locked_seconds("ada", HOME) > 0
    assert sqlite_pool.log_in("ada", PASSWORD, ELSEWHERE) is not None


def test_strangers_of_many_addresses_are_counted_together(sqlite_pool: Pool) -> None:
    sqlite_pool.someone("ada")
    for number in range(LOCK_AFTER):
        sqlite_pool.guess("ada", 1, f"198.51.100.{number}")
    assert sqlite_pool.locked_seconds("ada", "203.0.113.77") > 0


def test_a_right_password_forgets_the_wrong_ones(sqlite_pool: Pool) -> None:
    sqlite_pool.someone("ada")
    for _ in range(3):
        sqlite_pool.guess("ada", LOCK_AFTER - 1, HOME)
        assert sqlite_pool.log_in("ada", PASSWORD, HOME) is not None
    assert sqlite_pool.count(login_guards) == 0


def test_the_same_wrong_password_again_is_no_further_guess(sqlite_pool: Pool) -> None:
    """An agent that starts over and over with the password of yesterday locks nobody out."""
    sqlite_pool.someone("ada")
    for _ in range(10 * LOCK_AFTER):
        assert sqlite_pool.log_in("ada", "the old password", HOME) is None
    assert sqlite_pool.log_in("ada", PASSWORD, HOME) is not None


def test_old_wrong_passwords_are_forgotten_and_leave_nothing(sqlite_pool: Pool) -> None:
    for number in range(5):
        sqlite_pool.guess(f"name-{number}", LOCK_AFTER - 1)
    sqlite_pool.clock.now += FORGOTTEN_AFTER_SECONDS + 1
    sqlite_pool.guess("name-0", LOCK_AFTER - 1)
    assert sqlite_pool.locked_seconds("name-0") == 0
    sqlite_pool.guess("another", 1)
    assert sqlite_pool.count(login_guards) == 2


def test_guesses_of_one_moment_are_all_counted(pool: Pool) -> None:
    def guess(number: int) -> None:
        with contextlib.suppress(RateLimitedError):
            pool.log_in("ada", f"guess {number}", ELSEWHERE)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(guess, range(20)))
    query = select(login_guards.c.failures)
    counted = pool.gateway.database.read(lambda connection: connection.execute(query).scalar_one())
    assert counted >= LOCK_AFTER
    assert pool.locked_seconds("ada") >= LOCK_SECONDS


def test_logins_of_one_moment_from_a_new_address_all_succeed(pool: Pool) -> None:
    pool.register("ada")
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda _: pool.log_in("ada", PASSWORD, ELSEWHERE), range(20)))
    assert None not in found
    assert pool.count(login_addresses) == 1


def test_of_many_addresses_the_latest_are_kept(sqlite_pool: Pool) -> None:
    identity = sqlite_pool.someone("ada")
    for number in range(40):
        sqlite_pool.clock.now += 1
        assert sqlite_pool.log_in("ada", PASSWORD, f"203.0.113.{number}") is not None
    assert sqlite_pool.count(login_addresses) == 32
    now = sqlite_pool.clock.now

    def known(connection: Connection, address: str) -> bool:
        return not login_store.needs_remembering(connection, identity.user_id, address, now)

    query = select(login_addresses.c.address).order_by(login_addresses.c.seen_at.desc())
    addresses = sqlite_pool.gateway.database.read(lambda c: c.execute(query).scalars().all())
    assert all(sqlite_pool.gateway.database.read(lambda c: known(c, it)) for it in addresses)  # noqa: B023
    sqlite_pool.guess("ada", LOCK_AFTER, "203.0.113.39")
    assert sqlite_pool.log_in("ada", PASSWORD, HOME) is not None, (
        "its own address was forgotten, and is as good"
    )


def test_no_lock_where_the_setting_says_none(tmp_path: Path, valkey: TestValkey) -> None:
    url = f"sqlite:///{sqlite_file(tmp_path / 'users.db')}"
    with opened(url, tmp_path, valkey, login_lock_seconds=0.0) as made:
        made.someone("ada")
        made.guess("ada", 20)
        assert made.log_in("ada", PASSWORD, ELSEWHERE) is not None


def test_neither_names_nor_addresses_nor_guesses_can_be_read_in_the_database(sqlite_pool: Pool) -> None:
    sqlite_pool.someone("ada")
    assert sqlite_pool.log_in("nobody-here", "s3cret guess", ELSEWHERE) is None
    rows = sqlite_pool.gateway.database.read(
        lambda connection: [
            *connection.execute(select(login_guards)),
            *connection.execute(select(login_addresses)),
        ]
    )
    assert len(rows) == 2
    for secret in ("nobody-here", "s3cret guess", "192.0.2.1", "198.51.100.9"):
        assert secret not in str(rows)


# -- change of password ----------------------------------------------------------------------------------
def test_a_changed_password_is_the_one_that_counts(pool: Pool) -> None:
    ada = pool.someone()
    issued = accounts.change_password(pool.gateway, ada, PASSWORD, OTHER)
    new = pool.gateway.tokens.read(issued.token)
    assert (new.user_id, new.generation) == (ada.user_id, ada.generation + 1)
    assert pool.log_in("ada", PASSWORD) is None
    assert pool.log_in("ada", OTHER) == new


def test_what_is_done_with_an_ended_token_in_its_last_second_is_refused(pool: Pool) -> None:
    """Gateways remember for a second who may call; a refresh must not outlive the change."""
    ada, bob = pool.someone("ada"), pool.someone("bob")
    accounts.change_password(pool.gateway, ada, PASSWORD, OTHER)
    for call in (
        lambda: accounts.refresh(pool.gateway, ada),
        lambda: accounts.change_password(pool.gateway, ada, OTHER, "yet another one"),
        lambda: accounts.transfer(pool.gateway, ada, bob.username, 1),
    ):
        with pytest.raises(UnauthenticatedError, match=r"ended.*log in again"):
            call()


@pytest.mark.parametrize(
    ("new", "rule"),
    [("short", "at least"), (PASSWORD, "is the old one"), ("password1", "first that"), ("x" * 73, "at most")],
)
def test_a_new_password_that_breaks_a_rule_changes_nothing(sqlite_pool: Pool, new: str, rule: str) -> None:
    ada = sqlite_pool.someone()
    with pytest.raises(InvalidInputError, match=rule):
        accounts.change_password(sqlite_pool.gateway, ada, PASSWORD, new)
    assert accounts.refresh(sqlite_pool.gateway, ada)


def test_a_token_is_not_enough_to_guess_the_password_with(sqlite_pool: Pool) -> None:
    ada = sqlite_pool.someone()
    for number in range(LOCK_AFTER):
        with pytest.raises(PermissionDeniedError, match="the old password is wrong"):
            accounts.change_password(sqlite_pool.gateway, ada, f"guess {number}", OTHER)
    with pytest.raises(RateLimitedError, match="try again in 10 seconds"):
        accounts.change_password(sqlite_pool.gateway, ada, PASSWORD, OTHER)
    assert sqlite_pool.log_in("ada") is not None, "the owner logs in as ever"
    sqlite_pool.clock.now += LOCK_SECONDS
    assert accounts.change_password(sqlite_pool.gateway, ada, PASSWORD, OTHER)


def test_of_two_changes_at_once_one_counts(pool: Pool) -> None:
    ada = pool.someone()

    def change(number: int) -> str:
        try:
            accounts.change_password(pool.gateway, ada, PASSWORD, f"the new password {number}")
        except (StateConflictError, UnauthenticatedError, PermissionDeniedError):
            return ""
        return f"the new password {number}"

    with ThreadPoolExecutor(8) as threads:
        done = [password for password in threads.map(change, range(8)) if password]
    assert len(done) == 1
    fresh = pool.log_in("ada", done[0])
    assert fresh is not None
    assert fresh.generation == ada.generation + 1


# -- blocked -------------------------------------------------------------------------------------------
def test_a_blocked_user_is_told_so_when_the_password_is_right_and_nothing_when_it_is_wrong(
    pool: Pool,
) -> None:
    ada = pool.someone()
    pool.set("ada", blocked=True)
    assert pool.log_in("ada", "wrong") is None
    for call in (lambda: pool.log_in("ada"), lambda: accounts.refresh(pool.gateway, ada)):
        with pytest.raises(PermissionDeniedError, match="blocked; ask the pool's operator"):
            call()
    pool.set("ada", blocked=False)
    assert pool.log_in("ada") is not None


# -- the first admin -------------------------------------------------------------------------------------
def admin_settings(name: str = "admin", password: str = PASSWORD) -> dict[str, str]:
    return {"admin_username": name, "admin_password": password}


def test_the_first_admin_is_made_once_and_keeps_the_password_it_chose(
    database_url: str, tmp_path: Path, valkey: TestValkey
) -> None:
    for number in range(2):
        with opened(database_url, tmp_path, valkey, **admin_settings()) as made:
            bootstrap_admin.ensure(made.gateway)
            identity = made.log_in("admin", PASSWORD if number == 0 else OTHER)
            assert identity is not None
            assert identity.role == "admin"
            if number == 0:
                accounts.change_password(made.gateway, identity, PASSWORD, OTHER)
            assert made.count(users) == 1


def test_gateways_that_start_at_once_make_one_admin(
    database_url: str, tmp_path: Path, valkey: TestValkey
) -> None:
    with (
        opened(database_url, tmp_path, valkey, **admin_settings()) as one,
        opened(database_url, tmp_path, valkey, **admin_settings()) as other,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(bootstrap_admin.ensure, [one.gateway, other.gateway] * 4))
        assert one.role("admin") == "admin"
        assert other.count(users) == 1


def test_a_user_who_is_there_gets_the_role_when_the_password_is_his(
    tmp_path: Path, valkey: TestValkey
) -> None:
    url = f"sqlite:///{sqlite_file(tmp_path / 'users.db')}"
    with opened(url, tmp_path, valkey) as made:
        made.register("ada")
        bootstrap_admin.ensure(made.gateway)
        assert made.role("ada") == "user"
    with opened(url, tmp_path, valkey, **admin_settings("ada", "not their password")) as made:
        with pytest.raises(StateConflictError, match="ADMIN_USERNAME: ada is there with another password"):
            bootstrap_admin.ensure(made.gateway)
        assert made.role("ada") == "user"
    with opened(url, tmp_path, valkey, **admin_settings("ada")) as made:
        bootstrap_admin.ensure(made.gateway)
        assert made.role("ada") == "admin"
        assert made.log_in("ada") is not None


def test_a_user_who_is_there_is_made_an_admin_by_name_alone(tmp_path: Path, valkey: TestValkey) -> None:
    url = f"sqlite:///{sqlite_file(tmp_path / 'users.db')}"
    with opened(url, tmp_path, valkey, **admin_settings("ada", "")) as made:
        with pytest.raises(InvalidInputError, match="ADMIN_PASSWORD: password must have"):
            bootstrap_admin.ensure(made.gateway)
        made.register("ada")
        bootstrap_admin.ensure(made.gateway)
        assert made.role("ada") == "admin"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (admin_settings("a b"), "ADMIN_USERNAME: username must be"),
        (admin_settings("ada", "short"), "ADMIN_PASSWORD: password must have at least"),
        (admin_settings("BOB"), "ADMIN_USERNAME: the name BOB is too much like one that is taken"),
    ],
)
def test_settings_that_make_no_admin_are_named(
    tmp_path: Path, valkey: TestValkey, settings: dict[str, str], words: str
) -> None:
    with opened(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}", tmp_path, valkey, **settings) as made:
        made.register("bob")
        with pytest.raises((InvalidInputError, StateConflictError), match=words):
            bootstrap_admin.ensure(made.gateway)
        assert made.count(users) == 1


def test_nobody_becomes_an_admin_by_registering(sqlite_pool: Pool) -> None:
    for name in ("admin", "Admin", "аdmin", "operator", "root"):
        with pytest.raises(InvalidInputError, match="could be taken for the pool's own"):
            sqlite_pool.register(name)
    sqlite_pool.register("ada")
    assert sqlite_pool.role("ada") == "user"
