"""`hivemind doctor` on a real pool: quiet where all is well, and each fault is named with what to do."""

from __future__ import annotations

import datetime
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from local_pool.doctor import on_this_host
from local_pool.doctor.findings import DoctorFinding, FindingLevel
from local_pool.doctor_command import doctor
from local_pool.pool_place import PoolPlace
from nodepool.settings import Settings
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.pool_tables import pool_records
from tests.support.certificates import Authority
from tests.support.databases import sqlite_file
from tests.support.environment import free_port
from tests.support.pool import PoolFactory, TestPool

NOW = datetime.datetime.now(datetime.UTC)


@dataclass
class Told:
    code: int
    findings: list[dict[str, str]]

    def of(self, check: str, level: str = "fault") -> str:
        """What is said of it at this level, with what to do."""
        wanted = [it for it in self.findings if it["check"] == check and it["level"] == level]
        return " ".join(f"{it['message']} -> {it['action']}" for it in wanted)


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0)


def ask(pool: TestPool, **changed: str) -> Told:
    environment = {**pool.environment(), **changed}
    result = CliRunner().invoke(doctor, ["--json"], env=environment)
    told = json.loads(result.output)
    assert told["healthy"] == (result.exit_code == 0)
    text = result.output
    for secret in (pool.valkey.password, environment["JWT_SECRET_KEY"], environment["STORAGE_KEY"]):
        assert secret not in text
    return Told(result.exit_code, told["findings"])


def test_a_pool_that_is_well_has_no_fault(pool: TestPool) -> None:
    pool.wait(lambda: ask(pool).of("sweep", "ok"), "a dispatcher has swept")
    told = ask(pool)
    assert [it for it in told.findings if it["level"] == "fault"] == []
    assert told.code == 0
    assert {it["check"] for it in told.findings} >= {
        "settings", "database", "ledger", "broker", "clock", "sweep", "gateway", "disk", "keys",
    }  # fmt: skip
    assert "nobody has verified it yet" in told.of("ledger", "warning")
    result = CliRunner().invoke(doctor, [], env=pool.environment())
    assert result.exit_code == 0
    assert "ok       sweep         a dispatcher swept" in result.output


def test_a_broker_of_another_pool_is_named(pool: TestPool) -> None:
    other = sqlite_file(pool.folder / "others.db")
    with closing(Database(f"sqlite:///{other}")) as database:
        database.write(lambda c: c.execute(pool_records.update().values(value="f" * 32)))
    told = ask(pool, DATABASE_URL=f"sqlite:///{other}")
    assert "the database is pool ffffffff" in told.of("owner")
    assert told.code == 1
    assert ask(pool).of("owner", "ok")


def test_parts_that_are_away_are_named(pool: TestPool) -> None:
    pool.dispatcher.freeze()
    pool.wait(lambda: "no dispatcher has swept for" in ask(pool).of("sweep"), "the sweep is missed")
    pool.dispatcher.thaw()
    pool.wait(lambda: ask(pool).code == 0, "it is well again")
    told = ask(pool, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", CELERY_BROKER_URL="")
    assert "start it, or set REDIS_URL" in told.of("broker")
    told = ask(pool, DATABASE_URL=f"postgresql+psycopg://nobody:secret@127.0.0.1:{free_port()}/x")
    assert "set DATABASE_URL to where it is" in told.of("database")
    assert "secret@" not in str(told.findings)
    told = ask(pool, GRPC_SERVER_PORT=str(free_port()))
    assert "nothing listens on" in told.of("gateway")
    told = ask(pool, DATABASE_URL=f"sqlite:///{pool.folder}/other.db")
    assert "there is no database" in told.of("database")
    assert not (pool.folder / "other.db").exists()


def test_a_broker_that_will_not_do_or_is_nearly_full(pool: TestPool) -> None:
    admin = pool.valkey.admin
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy is allkeys-lru" in ask(pool).of("broker")
    admin.config_set("maxmemory-policy", "noeviction")
    limit = admin.config_get("maxmemory")["maxmemory"]
    admin.config_set("maxmemory", int(admin.info()["used_memory"] * 1.02))
    assert "of its memory -> raise its maxmemory" in ask(pool).of("broker")
    admin.config_set("maxmemory", limit)


def test_a_key_that_others_can_read(pool: TestPool) -> None:
    key = pool.folder / "storage" / "storage.key"
    key.touch(mode=0o644)
    key.chmod(0o644)
    assert f"chmod 600 {key}" in ask(pool).of("keys")
    key.unlink()


def test_metrics_that_are_not_served(pool: TestPool) -> None:
    told = ask(pool, DISPATCHER_METRICS_PORT=str(free_port()))
    assert "the dispatcher's metrics are not served" in told.of("metrics", "warning")


def test_settings_that_are_none(pool: TestPool) -> None:
    told = ask(pool, LEASE_SECONDS="99")
    assert (told.code, len(told.findings)) == (1, 1)
    assert "LEASE_SECONDS must be below NODE_LATE_SECONDS" in told.of("settings")
    assert "Set GRPC_TLS_CERT_FILE" in ask(pool, GRPC_SERVER_HOST="192.0.2.1").of("settings")


# -- certificates and disks, without a pool ----------------------------------------------------------
def certificates(tmp_path: Path, days: float) -> list[DoctorFinding]:
    authority = Authority(tmp_path, "authority")
    path = authority.sign("gateway.pem", "127.0.0.1", datetime.timedelta(days=days))
    settings = Settings(grpc_tls_cert_file=path, grpc_tls_key_file=path)
    place = PoolPlace(settings=settings, data_dir=None, database_url="sqlite:///x", storage=tmp_path)
    return list(on_this_host.check_certificates(place, NOW))


@pytest.mark.parametrize(
    ("days", "level"), [(90, FindingLevel.OK), (5, FindingLevel.WARNING), (-1 / 48, FindingLevel.FAULT)]
)
def test_a_certificate_is_told_of_before_it_ends(tmp_path: Path, days: float, level: FindingLevel) -> None:
    (found,) = certificates(tmp_path, days)
    assert found.level is level
    assert found.action == ("" if level is FindingLevel.OK else "renew it, and start what reads it again")


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = PoolPlace(settings=Settings(), data_dir=None, database_url="postgresql://x/y", storage=tmp_path)
    for free, level in ((500 << 30, "ok"), (50 << 30, "warning"), (1 << 30, "fault")):
        usage = on_this_host.shutil._ntuple_diskusage(1 << 40, 0, free)
        monkeypatch.setattr(on_this_host.shutil, "disk_usage", lambda _path, usage=usage: usage)
        (found,) = on_this_host.check_disks(place)
        assert found.level == level
