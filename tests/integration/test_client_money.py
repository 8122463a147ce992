"""Money, credit, passwords and the operator's commands, against a server that answers to order."""

from __future__ import annotations

import io
import json

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import Shell
from tests.support.scripted_server import Scripted, token_of

alice, environment, server, stranger = command.alice, command.environment, command.server, command.stranger

STATEMENT = pb.GetStatementResponse(
    success=True,
    lines=[
        pb.StatementLine(
            seq=12, entry_id="hold:t1", kind="hold", amount=-60, balance_after=940, counterparty="escrow",
            task_id="t1", at=1_700_000_000.0,
        ),
        pb.StatementLine(
            seq=3, entry_id="grant:1", kind="grant", amount=1000, balance_after=1000, counterparty="mint",
            memo="welcome\x1b[31m", at=1_600_000_000.0,
        ),
    ],
    next_before_seq=3,
    balance=940,
    held=60,
)  # fmt: skip


def test_the_balance_is_told_with_what_is_held(server: Scripted, alice: Shell) -> None:
    server.answers("GetBalance", pb.GetBalanceResponse(success=True, balance=1200, held=60, credit_score=51))
    assert alice("balance").out == "1,200 CPT, and 60 CPT held for tasks\n"
    assert alice("balance", "--json").answer == {
        "username": "alice", "balance_cpt": 1200, "balance": 1200, "held": 60, "credit_score": 51,
        "stored_bytes": 0, "stored_bytes_limit": 0, "result_days": 0.0, "log_days": 0.0, "task_days": 0.0,
    }  # fmt: skip
    kept = pb.GetBalanceResponse(success=True, balance=5, stored_bytes=3 << 20, stored_bytes_limit=1 << 30)
    server.answers("GetBalance", kept)
    assert alice("balance").out == "5 CPT\n3.0 MiB of 1.0 GiB kept in the pool\n"
    kept.result_days = 30
    server.answers("GetBalance", kept)
    assert alice("balance").out.endswith("3.0 MiB of 1.0 GiB kept in the pool; results stay 30 days\n")


def test_a_transfer_with_an_id_of_ones_own(server: Scripted, alice: Shell) -> None:
    server.answers("Transfer", pb.TransferResponse(success=True, message="sent", balance=7))
    given = alice("transfer", "bob", "5", "--id", "rent-may", "--json").answer
    assert given == {
        "receiver": "bob", "amount_cpt": 5, "message": "sent", "transfer_id": "rent-may", "balance": 7,
        "repeated": False,
    }  # fmt: skip
    assert server.asked["Transfer"][0].transfer_id == "rent-may"


def test_a_transfer_that_may_have_been_made_says_where_to_look(server: Scripted, alice: Shell) -> None:
    server.answers("Transfer", grpc.StatusCode.UNAVAILABLE)
    lost = alice("transfer", "bob", "5", "--json")
    assert lost.code == 5
    sent = {request.transfer_id for request in server.asked["Transfer"]}
    assert len(server.asked["Transfer"]) > len(sent) == 1
    assert f"sent again with `--id {sent.pop()}` it is paid once" in lost.error["hint"]


def test_a_statement_is_a_table_with_signs_and_a_running_balance(server: Scripted, alice: Shell) -> None:
    server.answers("GetStatement", STATEMENT)
    shown = alice("ledger", "--task", "t1", "--limit", "2", "--before", "20")
    assert shown.code == 0
    assert all(word in shown.out for word in ("hold", "-60", "940", "escrow", "t1", "+1,000", "mint"))
    assert "\x1b" not in shown.out
    assert "--before 3" in shown.err
    assert "balance: 940 CPT, and 60 CPT held for tasks" in shown.err
    asked = server.asked["GetStatement"][0]
    assert (asked.task_id, asked.page_size, asked.before_seq) == ("t1", 2, 20)


def test_a_statement_in_json_has_every_field(server: Scripted, alice: Shell) -> None:
    server.answers("GetStatement", STATEMENT)
    answer = alice("ledger", "--json").answer
    assert answer["lines"][0] == {
        "seq": 12, "entry_id": "hold:t1", "kind": "hold", "amount": -60, "balance_after": 940,
        "counterparty": "escrow", "task_id": "t1", "memo": "", "at": 1_700_000_000.0,
    }  # fmt: skip
    assert (answer["next_before_seq"], answer["balance"], answer["held"]) == (3, 940, 60)


def test_an_account_on_which_nothing_has_moved(server: Scripted, alice: Shell) -> None:
    server.answers("GetStatement", pb.GetStatementResponse(success=True))
    assert "nothing has moved" in alice("ledger").err


def test_credit_tells_the_reason_of_every_change(server: Scripted, alice: Shell) -> None:
    server.answers(
        "GetCredit",
        pb.GetCreditResponse(
            success=True,
            score=47,
            tier="low",
            start_score=50,
            changes=[
                pb.CreditChange(
                    seq=2, delta=-3, score_after=47, reason="lost a task", node_id="alice/pc", at=1.0
                )
            ],
            limits=[pb.AccessLimit(name="running_tasks", most=4)],
        ),
    )
    shown = alice("credit").out
    assert all(
        word in shown for word in ("47", "low", "50", "running tasks", "4", "-3", "lost a task", "alice/pc")
    )
    answer = alice("credit", "--json").answer
    assert answer["limits"] == {"running_tasks": 4}
    assert answer["changes"][0]["delta"] == -3


def test_a_new_password_is_kept_as_a_new_login(
    server: Scripted, stranger: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers("Login", pb.LoginResponse(success=True, token=token_of("alice", exp=4e9)))
    monkeypatch.setenv("HIVEMIND_PASSWORD", "the old password")
    assert stranger("login", "alice").code == 0
    changed = token_of("alice", exp=5e9)
    server.answers("ChangePassword", pb.ChangePasswordResponse(success=True, token=changed))
    monkeypatch.setattr("sys.stdin", io.StringIO("the old password\nthe new password\n"))
    assert stranger("passwd", "--password-stdin").code == 0
    asked = server.asked["ChangePassword"][0]
    assert (asked.old_password, asked.new_password) == ("the old password", "the new password")
    assert changed in stranger.profile.read_text()


def test_what_an_operator_does_is_sent_as_it_was_said(server: Scripted, alice: Shell) -> None:
    for method in ("Mint", "SetCreditScore", "SetUserBlocked", "ReversePayment"):
        server.answers(method, pb.AdminResponse(success=True, message="done"))
    for words in (
        ("mint", "bob", "100", "--id", "m1", "--memo", "prize"),
        ("set-score", "bob", "80", "--reason", "known"),
        ("block", "bob", "--reason", "abuse"),
        ("unblock", "bob"),
        ("reverse", "pay:t1:1", "--reason", "rubbish"),
    ):
        assert alice("admin", *words, "--json").answer == {"message": "done"}
    mint, score = server.asked["Mint"][0], server.asked["SetCreditScore"][0]
    assert (mint.username, mint.amount, mint.mint_id, mint.memo) == ("bob", 100, "m1", "prize")
    assert (score.username, score.score, score.reason) == ("bob", 80, "known")
    assert [request.blocked for request in server.asked["SetUserBlocked"]] == [True, False]
    assert server.asked["ReversePayment"][0].entry_id == "pay:t1:1"


def test_users_are_asked_for_page_by_page(server: Scripted, alice: Shell) -> None:
    server.answers(
        "ListUsers",
        pb.ListUsersResponse(users=[pb.UserRecord(username="a", balance=5)], next_after_username="a"),
        pb.ListUsersResponse(users=[pb.UserRecord(username="b", blocked=True)]),
    )
    assert [user["username"] for user in alice("admin", "list", "--json").answer] == ["a", "b"]
    assert [request.after_username for request in server.asked["ListUsers"]] == ["", "a"]


def test_the_record_of_acts_is_shown(server: Scripted, alice: Shell) -> None:
    act = pb.AdminAct(
        seq=1, at=1.0, admin="root", action="mint", subject="bob", detail=json.dumps({"amount": 3})
    )
    server.answers("ListAdminActs", pb.ListAdminActsResponse(acts=[act]))
    assert all(word in alice("admin", "audit").out for word in ("root", "mint", "bob", "amount"))
    assert alice("admin", "audit", "--json").answer[0]["subject"] == "bob"


def test_who_is_no_operator_is_told_so(server: Scripted, alice: Shell) -> None:
    server.answers("Mint", grpc.StatusCode.PERMISSION_DENIED)
    ended = alice("admin", "mint", "bob", "1", "--json")
    assert ended.error["code"] == "not_allowed"
