"""The account that `hivemind up` makes for its agents: its own, whoever else has been quicker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from local_pool.agent_account import Opening
from local_pool.gateway_probe import GatewayProbe, OperatorRefusedError
from tests.support.accounts import register
from tests.support.gateway import GatewayProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture
def gateway(tmp_path: Path, valkey: TestValkey) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path, valkey)
    try:
        yield made.start_serving()
    finally:
        made.close()


def opened(gateway: GatewayProcess, folder: Path) -> str:
    """The name of the account; the gateway has let it in."""
    with closing(GatewayProbe(f"127.0.0.1:{gateway.port}")) as link:
        opening = Opening(link, folder)
        wait_until(opening.attempt, "an account is open")
        return opening.account.name


def test_it_is_made_once_and_found_again_by_its_file(gateway: GatewayProcess, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    assert [opened(gateway, folder) for _ in range(2)] == ["local", "local"]
    assert [path.name for path in folder.iterdir()] == ["local"]


def test_a_stranger_who_was_quicker_gets_no_agent_and_a_changed_password_is_told(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    register(gateway.stubs, "local", "the-password-of-eve")
    folder = tmp_path / "secrets"
    folder.mkdir()
    first, again = (opened(gateway, folder) for _ in range(2))
    assert first == again
    assert first.startswith("local-")
    assert [path.name for path in folder.iterdir()] == [first]
    (folder / first).write_text("what-it-is-no-more\n")
    with pytest.raises(OperatorRefusedError, match="write the new one into"):
        opened(gateway, folder)
