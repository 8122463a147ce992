"""The profile on disk, and what wins over what."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hivemind.config import (
    Account,
    CommandLineOptions,
    Connection,
    Profile,
    account_of,
    load,
    profile_path,
    resolve,
    save,
)
from hivemind.errors import ConfigError

KEPT = Profile(gateway="kept:1").with_account("kept:1", Account(username="alice", token="secret", tls=True))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "hivemind" / "profile.json"
    save(path, KEPT)
    assert load(path) == KEPT


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "hivemind" / "profile.json"
    path.parent.mkdir(mode=0o755)
    save(path, KEPT)
    save(path, KEPT.without_token("kept:1"))
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["profile.json"]
    assert "secret" not in path.read_text()


def test_a_profile_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save(path, KEPT)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="read by others") as caught:
        load(path)
    assert "chmod 600" in caught.value.hint


def test_a_failed_save_leaves_the_old_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hivemind" / "profile.json"
    save(path, KEPT)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ConfigError, match="No space left"):
        save(path, Profile())
    assert load(path) == KEPT
    assert [entry.name for entry in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"accounts": []}',
        '{"accounts": {"a:1": 3}}',
        '{"gateway": 7}',
        '{"accounts": {"a:1": {"token": 1}}}',
    ],
)
def test_a_damaged_profile_says_so_and_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged") as caught:
        load(path)
    assert "hivemind login" in caught.value.hint


def test_no_profile_is_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path / "nothing") == Profile()


def test_the_profile_is_where_xdg_says() -> None:
    assert profile_path({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/hivemind/profile.json")
    assert profile_path({"HOME": "/h"}) == Path("/h/.config/hivemind/profile.json")
    assert profile_path({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path(
        "/h/.config/hivemind/profile.json"
    )


def test_the_command_line_wins_over_the_environment_and_that_over_the_profile() -> None:
    environment = {"HIVEMIND_GATEWAY": "env:2", "HIVEMIND_TOKEN": "from env"}
    assert resolve(KEPT, {}, CommandLineOptions()).gateway == "kept:1"
    assert resolve(KEPT, environment, CommandLineOptions()).gateway == "env:2"
    assert resolve(KEPT, environment, CommandLineOptions(gateway="flag:3")).gateway == "flag:3"
    assert resolve(KEPT, {}, CommandLineOptions()).token == "secret"
    assert resolve(KEPT, environment, CommandLineOptions(gateway="kept:1")).token == "from env"
    assert resolve(KEPT, {}, CommandLineOptions()).tls
    assert not resolve(KEPT, {"HIVEMIND_TLS": "0"}, CommandLineOptions()).tls
    assert resolve(KEPT, {"HIVEMIND_TLS": "0"}, CommandLineOptions(tls=True)).tls
    assert resolve(Profile(), {}, CommandLineOptions()).gateway == "localhost:50051"


def test_a_token_goes_to_the_gateway_that_issued_it_only() -> None:
    elsewhere = resolve(KEPT, {}, CommandLineOptions(gateway="other:1"))
    assert elsewhere.token == ""
    assert elsewhere.username == ""


def test_an_environment_switch_with_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="HIVEMIND_TLS"):
        resolve(Profile(), {"HIVEMIND_TLS": "maybe"}, CommandLineOptions())


def test_a_token_is_not_shown_with_its_connection() -> None:
    assert "secret" not in repr(resolve(KEPT, {}, CommandLineOptions()))
    assert "secret" not in repr(KEPT)


def test_what_a_login_used_is_kept_with_its_token() -> None:
    used = Connection(
        gateway="a:1", username="", token="", tls=True, ca_file="ca.pem", allow_insecure_plaintext=False
    )
    account = account_of(used, username="bob", token="t")
    assert account == Account(username="bob", token="t", tls=True, ca_file=str(Path("ca.pem").resolve()))


def test_a_token_goes_to_gateways_that_it_was_kept_for_and_to_no_other() -> None:
    pool = "a:1,b:2,c:3"
    profile = Profile(gateway=pool).with_account(pool, Account(username="alice", token="secret"))
    for gateway, token in {pool: "secret", "c:3,a:1,b:2": "secret", "b:2": "secret", "b:2,d:4": ""}.items():
        assert resolve(profile, {}, CommandLineOptions(gateway=gateway)).token == token
    again = profile.with_account("c:3,b:2,a:1", Account(username="bob"))
    assert list(again.accounts) == ["c:3,b:2,a:1"]
    assert not profile.without_token("b:2").account_for(pool).token


def test_of_two_accounts_the_closer_one_is_meant() -> None:
    profile = Profile().with_account("a:1,b:2", Account(username="of the pool"))
    profile = profile.with_account("a:1", Account(username="of one"))
    assert profile.account_for("a:1").username == "of one"
    assert profile.account_for("b:2").username == "of the pool"


def test_several_gateways_are_read_from_anywhere() -> None:
    environment = {"HIVEMIND_GATEWAY": "a:1, b:2"}
    assert resolve(Profile(), environment, CommandLineOptions()).gateway == "a:1,b:2"
    with pytest.raises(ConfigError, match="HOST:PORT"):
        resolve(Profile(), {"HIVEMIND_GATEWAY": "a:1,b"}, CommandLineOptions())


def test_how_long_a_pool_is_tried_can_be_said() -> None:
    assert resolve(Profile(), {}, CommandLineOptions()).retry_seconds == 60
    assert resolve(Profile(), {"HIVEMIND_RETRY_SECONDS": "0"}, CommandLineOptions()).retry_seconds == 0
    for word in ("-1", "nan", "soon", "1e9"):
        with pytest.raises(ConfigError, match="HIVEMIND_RETRY_SECONDS must be a number"):
            resolve(Profile(), {"HIVEMIND_RETRY_SECONDS": word}, CommandLineOptions())
