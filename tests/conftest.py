"""Fixtures that every test may ask for: real services, started once a run, and the checks that end it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import structlog

from tests.support import databases, engine, forking, forks, postgres, spreading, statements
from tests.support.environment import scrub
from tests.support.pool import PoolFactory, PoolOptions, TestPool
from tests.support.processes import MARK, end_all, open_folder, strays
from tests.support.valkey import TestValkey
from worker_agent.trash import remove_tree


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, metavar="N", help="run the tests in N forked processes")


def pytest_configure(config: pytest.Config) -> None:
    if processes := config.getoption("--forks"):
        config.pluginmanager.register(forks.Forks(processes), "forks")
    scrub(os.environ)
    # Of a terminal that no test has: what spreads the tests over processes sets them.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    os.environ[MARK] = secrets.token_hex(8)
    config.pluginmanager.register(spreading.LongestFirst())
    statements.share()
    # Tests see no tasks but their own; those of probes say that they want them.
    os.environ["PROBE_HOURS"] = "0"
    os.environ["SPOT_CHECK_SHARE"] = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> spreading.ByModule:
    return spreading.ByModule(config, log)


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the run when a process that the tests started is still there at its end."""
    yield
    forking.close()
    databases.close()
    left = strays(os.environ[MARK], tmp_path_factory.getbasetemp())
    names = [f"{process.pid} {' '.join(process.cmdline()[:4])}" for process in left if process.is_running()]
    end_all(left)
    assert not names, f"processes that outlived their tests: {names}"


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestValkey]:
    server = TestValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def other_valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestValkey]:
    """For a gateway beside the one of a module: a pool takes a broker that is nobody's, and keeps it."""
    server = TestValkey(tmp_path_factory.mktemp("other-valkey"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def valkey(valkey_server: TestValkey) -> TestValkey:
    """A running, empty Valkey with no users but the admin."""
    return valkey_server.emptied()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database on PostgreSQL with the present tables, and no row."""
    with databases.postgres_database() as url:
        yield url


_EACH = pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])


@_EACH
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the present tables and no row, on SQLite and then on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{databases.sqlite_file(tmp_path / 'users.db')}"
    else:
        with databases.postgres_database() as url:
            yield url


@_EACH
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, for tests of migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'users.db'}"
    else:
        with postgres.fresh_database() as url:
            yield url


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.DockerClient]:
    """The engine; fails the run when containers of its nodes are left on it."""
    with engine.engine() as client:
        yield client
        left = engine.our_containers(client)
        names = [container.name for container in left]
        engine.remove_all(left)
        assert not names, f"containers that outlived their tests: {names}"


@pytest.fixture(scope="session")
def test_image(docker_engine: docker.DockerClient) -> str:
    return engine.image_name(docker_engine)


@pytest.fixture(scope="module")
def pool_factory(request: pytest.FixtureRequest) -> Iterator[PoolFactory]:
    """pool_factory(agents=…, runner=…, …): a started pool with these PoolOptions, closed with the module."""
    pools: list[TestPool] = []

    def make(**options: Any) -> TestPool:
        if options.get("runner") == "docker":
            options.setdefault("image", request.getfixturevalue("test_image"))
        pool = TestPool(open_folder(), PoolOptions(**options))
        pools.append(pool)
        pool.start()
        return pool

    yield make
    problems = []
    for pool in pools:
        try:
            pool.close()
        except AssertionError as error:
            problems.append(f"{error}\n{pool.logs()}")
        finally:
            pool.kill_everything()
            remove_tree(pool.folder)
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    """A pool with one agent on the process runner."""
    return pool_factory(agents=1)


@pytest.fixture(scope="module")
def docker_pool(pool_factory: PoolFactory) -> TestPool:
    """A pool with one agent on the Docker runner."""
    return pool_factory(agents=1, runner="docker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows the ends of its pool's logs."""
    report = yield
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, TestPool):
                report.sections.append(("the pool's logs", value.logs()))
    return report


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """What a test does to the log of this process ends with it: events are told where a log is set up, and on
    stdout where nothing else is said, as `structlog.testing.capture_logs` leaves it."""
    was_set_up = structlog.is_configured()
    yield
    if structlog.is_configured() and not was_set_up:
        structlog.reset_defaults()
