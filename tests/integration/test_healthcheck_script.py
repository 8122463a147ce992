"""deploy/healthcheck.py against a gateway with TLS: whether it does its work, not whether it listens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.certificates import Authority
from tests.support.environment import ROOT
from tests.support.gateway import GatewayProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


def _check(gateway: GatewayProcess) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "healthcheck.py"), "gateway"],
        env=gateway.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("host", ["pool.example.org", "127.0.0.1"])
def test_a_gateway_with_tls_is_asked_and_one_that_hangs_is_not_healthy(
    valkey: TestValkey, tmp_path: Path, host: str
) -> None:
    both = Authority(tmp_path, "authority").sign("gateway", host)
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(
        x509.load_pem_x509_certificate(both.read_bytes()).public_bytes(serialization.Encoding.PEM)
    )
    gateway = GatewayProcess(
        tmp_path, valkey, GRPC_TLS_CERT_FILE=str(certificate), GRPC_TLS_KEY_FILE=str(both)
    ).start_serving()
    try:
        wait_until(lambda: _check(gateway)[0] == 0, "it is healthy")
        # It is there, and the kernel goes on taking connections for it.
        gateway.freeze()
        code, said = _check(gateway)
        gateway.thaw()
        assert code == 1
        assert "DEADLINE_EXCEEDED" in said
    finally:
        gateway.close()
