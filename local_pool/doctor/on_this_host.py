"""Checks of files and disks: who may read the keys, how much room there is, until when certificates count."""

from __future__ import annotations

import datetime
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.auth.tokens import SECRET_FILE_NAME
from gateway.listening import CannotServeError, check_exposure
from local_pool.doctor.findings import DoctorFinding, fault, ok, warning
from local_pool.pool_place import PoolPlace

_GIB = 1 << 30
_LOW_SHARE, _LOW_BYTES = 0.1, 2 * _GIB
_FULL_SHARE, _FULL_BYTES = 0.02, _GIB // 5
_EXPIRES_DAYS = 21
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_settings(place: PoolPlace) -> Iterator[DoctorFinding]:
    """They were read, so each by itself is right."""
    try:
        check_exposure(place.settings)
    except CannotServeError as error:
        yield fault("settings", str(error), "set what it names")
        return
    where = f"hivemind up in {place.data_dir}" if place.data_dir else "parts that are started by themselves"
    yield ok("settings", f"they can be read; the pool is {where}")


def check_disks(place: PoolPlace) -> Iterator[DoctorFinding]:
    folders = {"storage": place.storage}
    if place.database_path is not None:
        folders["database"] = place.database_path.parent
    for name, folder in folders.items():
        if not folder.is_dir():
            yield warning(
                "disk", f"the folder of {name}, {folder}, is not there", "a gateway makes it at its start"
            )
            continue
        usage = shutil.disk_usage(folder)
        words = f"{name}: {usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB are free ({folder})"
        if usage.free < max(_FULL_BYTES, usage.total * _FULL_SHARE):
            yield fault("disk", words, "make room, or a larger disk: on a full one submits are refused")
        elif usage.free < max(_LOW_BYTES, usage.total * _LOW_SHARE):
            yield warning("disk", words, "make room before it is full")
        else:
            yield ok("disk", words)


def check_keys(place: PoolPlace) -> Iterator[DoctorFinding]:
    """Nobody but the pool's user reads what opens everything."""
    open_to_others = [path for path in _private_files(place) if path.stat().st_mode & _OTHERS]
    for path in open_to_others:
        yield fault("keys", f"{path} can be read by others", f"chmod 600 {path}, and think about a new key")
    if not open_to_others:
        yield ok("keys", "nobody but their owner can read the pool's keys and its database")


def _private_files(place: PoolPlace) -> Iterator[Path]:
    settings = place.settings
    folders = [folder for folder in (place.secrets,) if folder is not None and folder.is_dir()]
    for folder in folders:
        yield from sorted(path for path in folder.iterdir() if path.is_file())
    files = [place.storage / "storage.key", place.storage / SECRET_FILE_NAME, settings.grpc_tls_key_file]
    files += [settings.redis_key_file, place.database_path, Path(".env")]
    if place.data_dir is not None:
        files.append(place.data_dir / "valkey" / "password")
    yield from (path for path in files if path is not None and path.is_file())


def check_certificates(place: PoolPlace, now: datetime.datetime) -> Iterator[DoctorFinding]:
    settings = place.settings
    named = {
        "GRPC_TLS_CERT_FILE": settings.grpc_tls_cert_file,
        "REDIS_CA_FILE": settings.redis_ca_file,
        "REDIS_CERT_FILE": settings.redis_cert_file,
        "AGENT_REDIS_CA_FILE": settings.agent_redis_ca_file,
    }
    for name, path in named.items():
        if path is not None:
            yield from _certificate(name, path, now)
    if settings.grpc_tls_cert_file and settings.grpc_tls_key_file:
        yield from _pair(settings.grpc_tls_cert_file, settings.grpc_tls_key_file)


def _certificate(name: str, path: Path, now: datetime.datetime) -> Iterator[DoctorFinding]:
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        yield fault(
            "certificates", f"{name}: {path} cannot be read: {error}", "put a certificate (PEM) there"
        )
        return
    ends = min(found.not_valid_after_utc for found in chain)
    begins = max(found.not_valid_before_utc for found in chain)
    words = f"{name}: good until {ends:%Y-%m-%d} ({path})"
    renew = "renew it, and start what reads it again"
    if now >= ends:
        yield fault("certificates", f"{name}: it ended on {ends:%Y-%m-%d} ({path})", renew)
    elif now < begins:
        yield fault(
            "certificates", f"{name}: it begins on {begins:%Y-%m-%d} only ({path})", "look at the clock"
        )
    elif ends - now < datetime.timedelta(days=_EXPIRES_DAYS):
        yield warning("certificates", words, renew)
    else:
        yield ok("certificates", words)


def _pair(certificate: Path, key: Path) -> Iterator[DoctorFinding]:
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    private = serialization.load_pem_private_key(key.read_bytes(), None).public_key()
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*encoding) != private.public_bytes(*encoding):
        yield fault(
            "certificates",
            f"{key} is not the key of {certificate}",
            "set GRPC_TLS_KEY_FILE to the key that the certificate was made with",
        )
