"""The agent's line to the gateway over TLS, with certificates that fit and that do not."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.agent_stage import smallest_acl
from tests.support.scripted_gateway import ScriptedGateway
from tests.support.valkey import TestValkey
from worker_agent.gateway_client import (
    GatewayClient,
    GatewayGivenUpError,
    GatewayOptions,
    GatewayRefusedError,
    LoginRefusedError,
)


def certificate() -> tuple[bytes, bytes]:
    """A self-signed one for 127.0.0.1: key and certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway of a test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, plain, serialization.NoEncryption()), made.public_bytes(pem)


@pytest.fixture
def gateway(valkey: TestValkey, tmp_path: Path) -> Iterator[ScriptedGateway]:
    key, chain = certificate()
    (tmp_path / "ca.pem").write_bytes(chain)
    (tmp_path / "other.pem").write_bytes(certificate()[1])
    gateway = ScriptedGateway(valkey, smallest_acl)
    gateway.credentials = grpc.ssl_server_credentials([(key, chain)])
    gateway.start()
    yield gateway
    gateway.close()


def link_to(gateway: ScriptedGateway, ca_file: Path, password: str = "") -> GatewayClient:
    return GatewayClient(
        GatewayOptions(
            addresses=(gateway.address,),
            username="owner",
            password=password or gateway.password,
            tls=True,
            ca_file=ca_file,
        )
    )


def test_a_gateway_with_the_right_certificate_is_spoken_to(gateway: ScriptedGateway, tmp_path: Path) -> None:
    link = link_to(gateway, tmp_path / "ca.pem")
    assert link.enroll("owner/n1").queue == "node.owner/n1"
    link.close()


def test_a_gateway_with_another_certificate_gets_no_password(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    link = link_to(gateway, tmp_path / "other.pem")
    tries = itertools.count()
    with pytest.raises(GatewayGivenUpError):
        link.enroll("owner/n1", lambda: next(tries) >= 2)
    link.close()
    assert gateway.calls == []


def test_a_wrong_password_is_not_tried_again(gateway: ScriptedGateway, tmp_path: Path) -> None:
    link = link_to(gateway, tmp_path / "ca.pem", "a wrong password")
    told: list[LoginRefusedError] = []
    link.on_login_refused = told.append
    with pytest.raises(LoginRefusedError, match=r"wrong name or password.*start the agent with the new one"):
        link.enroll("owner/n1")
    link.close()
    assert len(told) == 1
    assert gateway.calls == ["Login"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_what_passes_is_tried_again(gateway: ScriptedGateway, tmp_path: Path, code: grpc.StatusCode) -> None:
    link = link_to(gateway, tmp_path / "ca.pem")
    gateway.refuse_with = code
    tries = itertools.count()

    def give_up() -> bool:
        if next(tries) == 3:
            gateway.refuse_with = None
        return False

    assert link.enroll("owner/n1", give_up).success
    link.close()
    assert gateway.calls.count("EnrollAgent") == 4


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT])
def test_what_does_not_pass_is_not(gateway: ScriptedGateway, tmp_path: Path, code: grpc.StatusCode) -> None:
    link = link_to(gateway, tmp_path / "ca.pem")
    gateway.refuse_with = code
    with pytest.raises(GatewayRefusedError, match=code.name):
        link.enroll("owner/n1")
    link.close()
    assert gateway.calls.count("EnrollAgent") == 1
