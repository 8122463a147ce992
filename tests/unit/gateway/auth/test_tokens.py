"""Tokens: what is read back, what is refused, and the secret that the pool makes for itself."""

from __future__ import annotations

import base64
import json
import secrets
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.auth.tokens import MAX_TOKEN_LENGTH, CallerIdentity, Tokens, load_secret
from nodepool.domain.errors import UnauthenticatedError
from nodepool.settings import Settings

SECRET = "a" * 20 + "b" * 20
ALICE = CallerIdentity(7, "alice", "user")
NOW = 1_800_000_000.0


class _Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def _claims(**changed: Any) -> dict[str, Any]:
    given = {"sub": "alice", "uid": 7, "role": "user", "iat": int(NOW), "exp": int(NOW) + 60, **changed}
    return {name: value for name, value in given.items() if value is not None}


def _without_signature(claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def tokens(clock: _Clock) -> Tokens:
    return Tokens(SECRET, 3600, clock)


def test_a_token_names_who_it_was_issued_to(tokens: Tokens) -> None:
    issued = tokens.issue(ALICE)
    assert issued.expires_at == NOW + 3600
    assert tokens.read(issued.token) == ALICE
    assert tokens.read(issued.token) == ALICE


def test_the_claims_are_the_documented_ones(tokens: Tokens) -> None:
    claims = jwt.decode(tokens.issue(ALICE).token, options={"verify_signature": False})
    assert set(claims) == {"sub", "uid", "role", "gen", "iat", "exp"}


def test_a_token_is_refused_from_the_second_it_expires(tokens: Tokens, clock: _Clock) -> None:
    token = tokens.issue(ALICE).token
    clock.now = NOW + 3599
    assert tokens.read(token) == ALICE
    clock.now = NOW + 3600
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match=r"expired.*log in again"):
            tokens.read(token)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("not a token", id="no token"),
        pytest.param("a.b.c", id="three parts of nothing"),
        pytest.param("é" * 10, id="not ASCII"),
        pytest.param("x" * (MAX_TOKEN_LENGTH + 1), id="too long"),
        pytest.param(jwt.encode(_claims(), "c" * 40, algorithm="HS256"), id="another secret"),
        pytest.param(jwt.encode(_claims(), SECRET + "0" * 40, algorithm="HS512"), id="another algorithm"),
        pytest.param(_without_signature(_claims()), id="no signature"),
        pytest.param(jwt.encode(_claims(uid="7"), SECRET, algorithm="HS256"), id="uid is text"),
        pytest.param(jwt.encode(_claims(uid=True), SECRET, algorithm="HS256"), id="uid is a truth value"),
        pytest.param(jwt.encode(_claims(exp="never"), SECRET, algorithm="HS256"), id="exp is text"),
        pytest.param(jwt.encode(_claims(role=None), SECRET, algorithm="HS256"), id="no role"),
        pytest.param(jwt.encode(_claims(exp=None), SECRET, algorithm="HS256"), id="no expiry"),
    ],
)
def test_what_is_not_ours_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(UnauthenticatedError, match="log in again"):
        tokens.read(token)


def test_a_changed_token_is_refused(tokens: Tokens) -> None:
    head, _, signature = tokens.issue(ALICE).token.split(".")
    claims = base64.urlsafe_b64encode(json.dumps(_claims(role="admin")).encode()).decode().rstrip("=")
    with pytest.raises(UnauthenticatedError):
        tokens.read(f"{head}.{claims}.{signature}")


def _settings(folder: Path, **more: object) -> Settings:
    return Settings.model_validate({"task_storage_path": folder, **more})


def test_the_secret_of_the_settings_wins_and_no_file_is_made(tmp_path: Path) -> None:
    given = secrets.token_hex(32)
    assert load_secret(_settings(tmp_path / "storage", jwt_secret_key=given)) == given
    assert not (tmp_path / "storage").exists()


def test_a_pool_without_a_secret_makes_one_and_keeps_it_to_itself(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "storage")
    first = load_secret(settings)
    assert load_secret(settings) == first
    assert len(first) >= 32
    (file,) = (tmp_path / "storage").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_empty_secret_file_is_named(tmp_path: Path) -> None:
    load_secret(_settings(tmp_path))
    (tmp_path / "jwt.secret").write_text("")
    with pytest.raises(ValueError, match=r"jwt\.secret"):
        load_secret(_settings(tmp_path))
