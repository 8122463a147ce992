"""The agent's process against a real Valkey with the agent's own broker user, and a scripted gateway.

The broker user is as small as it can be: with it the agent consumes its queue through Celery, reports,
reads what it is assigned and sends its events. PING is kombu's and redis-py's check of a connection,
CLIENT SETINFO and SELECT come with every connection, BRPOP is the consumer, PUBLISH are Celery's
events. Celery's remote control is off, so its keys and channels are not in the list.
"""

from __future__ import annotations

import json
import signal
import socket
import time

import grpc
import psutil
import pytest
import redis

from nodepool.domain.ids import broker_user
from tests.support.agent_stage import COUNTING, HELLO, SHORT, WAITING, Stage, StageMaker, smallest_acl
from tests.support.scripted_gateway import split_rules
from tests.support.valkey import TestValkey


# -- from message to result --------------------------------------------------------------------------
def test_a_message_becomes_a_run_and_a_result(stage: Stage) -> None:
    attempt = stage.send("t:1", HELLO)
    assert stage.outcome(attempt) == "SUCCEEDED"
    assert bytes(attempt.output) == b"hello\n"
    assert attempt.result_text("made.txt") == "here"
    assert attempt.result_text("task_logs.txt") == "hello\n"
    assert "COMPLETED" in attempt.result_text("execution_log.txt")
    stage.wait(lambda: not list((stage.data_dir / "runs").iterdir()), "the run's folder is gone")
    assert not list((stage.data_dir / "journal").glob("*.json"))
    assert not list((stage.data_dir / "journal" / "results").iterdir())


def test_the_broker_denies_the_agent_nothing_that_it_tries(stage: Stage) -> None:
    stage.valkey.admin.acl_log_reset()
    attempt = stage.running("t:1", WAITING)
    stage.gateway.hint(stage.node_id, "t:1", "worker_agent.stop")
    assert stage.outcome(attempt) == "STOPPED"
    assert stage.valkey.admin.acl_log() == []


def test_an_exit_code_is_told(stage: Stage) -> None:
    attempt = stage.send("t:1", {"main.py": "import sys\nsys.exit(3)"})
    assert stage.outcome(attempt) == "FAILED"
    assert attempt.end is not None
    assert attempt.end.exit_code == 3
    assert "exit code 3" in attempt.end.reason


def test_messages_that_come_twice_make_one_run(stage: Stage) -> None:
    attempt = stage.running("t:1", SHORT)
    for _ in range(3):
        stage.gateway.hint(stage.node_id, "t:1")
    assert stage.outcome(attempt) == "SUCCEEDED"
    stage.gateway.hint(stage.node_id, "t:1")
    other = stage.send("u:1", HELLO)
    assert stage.outcome(other) == "SUCCEEDED"
    assert attempt.claims == 1
    assert len(attempt.ends) == 1


def test_several_attempts_run_at_once_and_a_stop_finds_its_way(stage: Stage) -> None:
    attempts = [stage.send(f"t{number}:1", WAITING) for number in range(4)]
    stage.wait(lambda: all(attempt.output for attempt in attempts), "all four run")
    stage.gateway.hint(stage.node_id, "t2:1", "worker_agent.stop")
    assert stage.outcome(attempts[2]) == "STOPPED"
    assert attempts[2].result_text("task_stopped.txt")
    assert [attempt.outcome for attempt in attempts] == ["", "", "STOPPED", ""]


def test_the_second_attempt_of_a_package_comes_from_the_cache(stage: Stage) -> None:
    for number in (1, 2):
        attempt = stage.send(f"t:{number}", HELLO)
        assert stage.outcome(attempt) == "SUCCEEDED"
    assert len(list((stage.data_dir / "packages").iterdir())) == 1


def test_the_report_says_what_runs(stage: Stage) -> None:
    stage.running("t:1", WAITING)

    def listed() -> bool:
        return [run["attempt_id"] for run in stage.gateway.report(stage.node_id)["running"]] == ["t:1"]

    stage.wait(listed, "the report lists the attempt")
    report = stage.gateway.report(stage.node_id)
    assert report["v"] == 1
    assert 0 <= report["memory_percent"] <= 100
    assert 0 < stage.valkey.admin.ttl(f"node:{stage.node_id}:report") <= 60


def test_output_arrives_while_the_run_goes_on_and_each_byte_once(stage: Stage) -> None:
    attempt = stage.running("t:1", COUNTING)
    stage.wait(lambda: attempt.output.count(b"\n") > 8, "more lines arrive")
    attempt.stop_requested = True  # the answer to the next output says so
    assert stage.outcome(attempt) == "STOPPED"
    lines = attempt.output.decode().split()
    assert lines == [str(number) for number in range(len(lines))]
    assert attempt.result_text("task_logs.txt").split() == lines


# -- what is refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"image": "other:latest"}, "other:latest"), ({"network": True}, "network"), ({"gpu_score": 1}, "GPU")],
)
def test_what_the_node_may_or_can_not_do_is_refused(
    stage: Stage, spec: dict[str, object], reason: str
) -> None:
    attempt = stage.send("t:1", HELLO, **spec)
    assert stage.outcome(attempt) == "REFUSED"
    assert attempt.end is not None
    assert reason in attempt.end.reason


def test_a_package_with_nothing_to_run_has_failed(stage: Stage) -> None:
    assert stage.outcome(stage.send("t:1", {"readme.txt": "no program"})) == "FAILED"


def test_a_stale_attempt_is_forgotten(stage: Stage) -> None:
    attempt = stage.gateway.attempt("t:1", HELLO)
    attempt.stale = True
    stage.gateway.hint(stage.node_id, "t:1")
    stage.gateway.hint(stage.node_id, "unknown:1")
    assert stage.outcome(stage.send("u:1", HELLO)) == "SUCCEEDED"
    stage.wait(lambda: not list((stage.data_dir / "journal").glob("*.json")), "nothing is journalled")
    assert attempt.ends == []


# -- the list is the truth ---------------------------------------------------------------------------
def test_listed_work_whose_message_was_lost_is_started(stage: Stage) -> None:
    attempt = stage.gateway.attempt("t:1", HELLO)
    stage.gateway.assign(stage.node_id, "t:1")
    assert stage.outcome(attempt) == "SUCCEEDED"
    # The consumer, which was suspected, still works: it is not suspected again.
    assert stage.outcome(stage.send("u:1", HELLO)) == "SUCCEEDED"
    assert stage.agent.log().count("assigned work was not delivered") == 1


def test_the_list_says_stop(stage: Stage) -> None:
    attempt = stage.running("t:1", WAITING)
    stage.gateway.assign(stage.node_id, "t:1", stop=True)
    assert stage.outcome(attempt) == "STOPPED"


def test_what_is_not_listed_any_more_is_ended_without_a_word(stage: Stage) -> None:
    attempt = stage.running("t:1", WAITING)
    stage.gateway.unassign(stage.node_id, "t:1")
    stage.wait(lambda: not stage.gateway.report(stage.node_id)["running"], "the attempt is dropped")
    stage.wait(lambda: not list((stage.data_dir / "runs").iterdir()), "the run's folder is gone")
    assert attempt.ends == []


def test_output_that_is_refused_as_stale_ends_the_run(stage: Stage) -> None:
    attempt = stage.running("t:1", COUNTING)
    attempt.stale = True
    stage.wait(lambda: not list((stage.data_dir / "runs").iterdir()), "the run's folder is gone")
    assert attempt.ends == []


# -- trouble -----------------------------------------------------------------------------------------
def test_a_broker_that_was_killed_and_has_forgotten_the_agent_heals(stage: Stage) -> None:
    attempt = stage.running("t:1", COUNTING)
    enrolments = stage.gateway.calls.count("EnrollAgent")
    stage.valkey.kill()
    stage.valkey.start()
    # The users file never had the agent, so only a new enrolment lets it in.
    stage.wait(lambda: stage.gateway.calls.count("EnrollAgent") > enrolments, "the agent enrols again")
    stage.gateway.assign(stage.node_id, "t:1")
    other = stage.send("u:1", HELLO)
    assert stage.outcome(other) == "SUCCEEDED"
    assert not attempt.ends
    stage.gateway.hint(stage.node_id, "t:1", "worker_agent.stop")
    assert stage.outcome(attempt) == "STOPPED"


def test_a_broker_that_was_killed_and_knows_the_agent_heals(stage: Stage) -> None:
    stage.valkey.admin.acl_save()
    enrolments = stage.gateway.calls.count("EnrollAgent")
    for number in range(3):
        stage.valkey.kill()
        stage.valkey.start()
        assert stage.outcome(stage.send(f"t{number}:1", HELLO)) == "SUCCEEDED"
    assert stage.gateway.calls.count("EnrollAgent") == enrolments


def test_an_agent_whose_broker_user_was_deleted_enrols_again(stage: Stage) -> None:
    enrolments = stage.gateway.calls.count("EnrollAgent")
    stage.valkey.admin.acl_deluser(broker_user(stage.node_id))
    stage.wait(lambda: stage.gateway.calls.count("EnrollAgent") > enrolments, "the agent enrols again")
    assert stage.outcome(stage.send("t:1", HELLO)) == "SUCCEEDED"


def test_tokens_that_are_not_taken_any_more_are_renewed(stage: Stage) -> None:
    stage.gateway.tokens.clear()
    assert stage.outcome(stage.send("t:1", HELLO)) == "SUCCEEDED"


def test_a_gateway_that_comes_back_gets_output_and_end(make_stage: StageMaker) -> None:
    stage = make_stage().start()
    attempt = stage.running("t:1", SHORT)
    stage.gateway.stop()
    # The broker is still there, so the lease holds.
    stage.wait(lambda: '"ended"' in _journalled(stage), "the run is over")
    stage.gateway.start()
    assert stage.outcome(attempt) == "SUCCEEDED"
    assert bytes(attempt.output) == b"begun\ndone\n"


def test_a_gateway_hears_an_agent_that_does_not_reach_the_broker_and_says_what_is_its_own(
    make_stage: StageMaker,
) -> None:
    stage = make_stage(lease_seconds=1.0, report_period_seconds=0.3, outage_grace_seconds=600.0).start()
    kept, given_away = stage.running("t:1", WAITING), stage.running("u:1", WAITING)
    stage.valkey.freeze()
    try:
        stage.wait(lambda: len(stage.gateway.reports) >= 2, "it reports to the gateway")
        heard = json.loads(stage.gateway.reports[-1].report)
        assert {run["attempt_id"] for run in heard["running"]} == {"t:1", "u:1"}
        given_away.stale = True
        stage.wait(lambda: "cause='away'" in stage.agent.log(), "what was given away is ended")
        kept.stop_requested = True
        assert stage.outcome(kept) == "STOPPED"
    finally:
        stage.valkey.thaw()
    assert not given_away.ends


def test_within_the_grace_a_run_goes_on_without_anybody_and_its_result_waits(make_stage: StageMaker) -> None:
    stage = make_stage(lease_seconds=0.5, report_period_seconds=0.2, outage_grace_seconds=600.0).start()
    attempt = stage.running("t:1", SHORT)
    stage.gateway.stop()
    stage.valkey.freeze()
    try:
        stage.wait(lambda: '"ended"' in _journalled(stage), "the run is over")
        # Also when the agent dies meanwhile.
        stage.agent.kill()
    finally:
        stage.valkey.thaw()
    stage.gateway.start()
    stage.start()
    assert stage.outcome(attempt) == "SUCCEEDED"
    assert attempt.claims == 1


def test_an_empty_list_ends_nothing_that_the_gateway_says_is_still_here(make_stage: StageMaker) -> None:
    stage = make_stage(lease_seconds=5.0, report_period_seconds=0.3, outage_grace_seconds=600.0).start()
    attempt = stage.running("t:1", WAITING)
    stage.gateway.unassign(stage.node_id, "t:1")
    stage.wait(lambda: len(stage.gateway.reports) >= 2, "it asks the gateway, twice")
    assert "cause='away'" not in stage.agent.log()
    attempt.stale = True
    stage.wait(lambda: "cause='away'" in stage.agent.log(), "it is told that it was given away")


def test_without_any_contact_runs_are_ended_and_told_as_lost(stage: Stage) -> None:
    attempt = stage.running("t:1", WAITING)
    stage.gateway.refuse_with = grpc.StatusCode.UNAVAILABLE
    stage.valkey.freeze()
    try:
        stage.wait(lambda: "cause='lease'" in stage.agent.log(), "the lease ends the run")
        stage.wait(lambda: '"lost"' in _journalled(stage), "the loss is waiting to be told")
    finally:
        stage.valkey.thaw()
    stage.gateway.refuse_with = None
    assert stage.outcome(attempt) == "LOST"
    assert stage.outcome(stage.send("u:1", HELLO)) == "SUCCEEDED"


def test_an_agent_that_was_frozen_for_longer_than_its_lease_ends_its_runs(make_stage: StageMaker) -> None:
    stage = make_stage(lease_seconds=1.5, report_period_seconds=0.3).start()
    attempt = stage.running("t:1", WAITING)
    before = stage.gateway.report(stage.node_id)["at"]
    stage.agent.freeze()
    stage.wait(lambda: time.time() - before > 3, "more than the lease has passed")
    stage.agent.thaw()
    assert stage.outcome(attempt) == "LOST"


def test_a_killed_agent_finds_its_attempts_lost_and_ends_what_still_ran(stage: Stage) -> None:
    attempt = stage.running("t:1", WAITING)
    stage.agent.kill()
    stage.start()
    assert stage.outcome(attempt) == "LOST"
    assert attempt.claims == 1
    assert not list((stage.data_dir / "runs").iterdir())


def test_a_killed_agent_tells_the_kept_result_of_a_run_that_had_ended(stage: Stage) -> None:
    attempt = stage.running("t:1", SHORT)
    stage.gateway.refuse_with = grpc.StatusCode.UNAVAILABLE
    stage.wait(lambda: '"ended"' in _journalled(stage), "the end is journalled")
    stage.agent.kill()
    stage.gateway.refuse_with = None
    stage.start()
    assert stage.outcome(attempt) == "SUCCEEDED"
    assert attempt.result_text("task_logs.txt") == "begun\ndone\n"
    stage.wait(lambda: not _journalled(stage), "nothing is left in the journal")


def _journalled(stage: Stage) -> str:
    texts = []
    for path in (stage.data_dir / "journal").glob("*.json"):
        try:
            texts.append(path.read_text())
        except FileNotFoundError:
            continue
    return "".join(texts)


# -- leaving -----------------------------------------------------------------------------------------
def test_sigterm_lets_a_short_run_finish(stage: Stage) -> None:
    attempt = stage.running("t:1", SHORT)
    assert stage.agent.stop() == 0
    assert attempt.outcome == "SUCCEEDED"
    leaving = [call for call in stage.gateway.calls if call in {"SetNodeDraining", "DeregisterNode"}]
    assert leaving == ["SetNodeDraining", "DeregisterNode"]
    assert stage.gateway.calls[-1] == "DeregisterNode"


def test_after_the_grace_runs_are_handed_back(make_stage: StageMaker) -> None:
    stage = make_stage().start("--grace-seconds", "0.5")
    attempt = stage.running("t:1", WAITING)
    assert stage.agent.stop() == 0
    assert attempt.outcome == "REFUSED"
    assert attempt.end is not None
    assert attempt.end.reason == "the node is shutting down"


def test_a_second_signal_does_not_wait_for_the_grace(stage: Stage) -> None:
    attempt = stage.running("t:1", WAITING)
    stage.agent.send(signal.SIGINT)
    stage.wait(lambda: "SetNodeDraining" in stage.gateway.calls, "the agent drains")
    assert not attempt.ends
    stage.agent.send(signal.SIGTERM)
    assert stage.agent.process.wait(60) == 0
    assert attempt.outcome == "REFUSED"


def test_work_that_arrives_while_draining_is_refused(stage: Stage) -> None:
    stage.running("t:1", SHORT)
    stage.agent.send(signal.SIGTERM)
    stage.wait(lambda: "SetNodeDraining" in stage.gateway.calls, "the agent drains")
    late = stage.send("u:1", HELLO)
    assert stage.agent.process.wait(60) == 0
    assert late.outcome == "REFUSED"
    assert late.claims == 0


def test_an_agent_leaves_though_nobody_answers(stage: Stage) -> None:
    stage.gateway.stop()
    stage.valkey.freeze()
    try:
        assert stage.agent.stop(timeout=60) == 0
    finally:
        stage.valkey.thaw()


# -- starting ----------------------------------------------------------------------------------------
def test_a_wrong_password_ends_the_agent_with_a_reason(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.gateway.password = "another"
    stage.agent.start()
    assert stage.agent.process.wait(60) == 1
    assert "wrong name or password" in stage.agent.log()


def test_a_password_that_was_changed_ends_the_agent_and_loses_no_result(stage: Stage) -> None:
    attempt = stage.running("t:1", SHORT)
    stage.gateway.password = "the new one"
    stage.gateway.tokens.clear()
    assert stage.agent.process.wait(60) == 1
    log = stage.agent.log()
    assert "wrong name or password" in log
    assert "start the agent with the new one (HIVEMIND_PASSWORD)" in log
    assert not attempt.ends
    stage.start("--grace-seconds", "5")
    assert stage.outcome(attempt) == "SUCCEEDED"
    assert attempt.result_text("task_logs.txt") == "begun\ndone\n"


def test_the_password_is_in_no_log_and_in_no_environment(stage: Stage) -> None:
    assert stage.gateway.password not in stage.agent.log()
    assert stage.gateway.password not in " ".join(psutil.Process(stage.agent.pid).cmdline())


def test_an_agent_waits_for_its_gateway(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.gateway.stop()
    stage.agent.start()
    stage.wait((stage.data_dir / "runs").exists, "the agent is up")
    stage.gateway.start()
    stage.wait(lambda: stage.said_online() == 1, "the agent is online")


def test_two_agents_do_not_share_a_folder(stage: Stage) -> None:
    second = stage.make_agent()
    second.start()
    assert second.process.wait(60) == 1
    assert stage.agent.is_running
    assert "another agent uses" in second.log()


def test_it_registers_what_it_has_and_no_more(make_stage: StageMaker) -> None:
    stage = make_stage().start("--memory-gb", "1", "--cpu-score", "9999999")
    registration = stage.gateway.registrations[0]
    assert registration.kind == "agent"
    assert registration.docker_status == "unavailable"
    assert registration.memory_gb == 1
    assert 0 < registration.cpu_score < 9999999
    assert registration.max_tasks == 4
    assert registration.location == "Asia"


def test_events_say_that_the_agent_is_there(make_stage: StageMaker, valkey: TestValkey) -> None:
    with valkey.admin.pubsub() as events:
        events.psubscribe("/0.celeryev/*")
        stage = make_stage().start()
        stage.outcome(stage.send("t:1", HELLO))

        def kinds() -> set[str]:
            message = events.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                body = json.loads(message["data"])
                seen.add(str(body["headers"]["hostname"]))
            return seen

        seen: set[str] = set()
        stage.wait(lambda: f"agent@{stage.node_id}" in kinds(), "events name the agent")


def test_a_gateway_elsewhere_is_not_spoken_to_in_plain_text(make_stage: StageMaker) -> None:
    stage = make_stage()
    name = socket.gethostname()
    agent = stage.make_agent("--gateway", f"{name}.invalid:50051")
    agent.start()
    assert agent.process.wait(60) == 1
    assert "--allow-insecure-plaintext" in agent.log()


# -- what it may do on the broker --------------------------------------------------------------------
@pytest.mark.parametrize(
    "command",
    [
        "KEYS *", "SCAN 0", "INFO", "CONFIG GET *", "FLUSHALL", "FLUSHDB", "MONITOR", "CLIENT LIST",
        "ACL LIST", "SHUTDOWN", "DBSIZE", "EVAL return(1) 0", "SAVE", "REPLICAOF NO ONE",
        "BRPOP node.owner/n2 1", "BRPOP high.asia 1", "LPUSH node.owner/n1 x", "LPUSH node.owner/n2 x",
        "GET node:owner/n1:report", "GET node:owner/n2:report", "SET node:owner/n2:report x",
        "HGETALL node:owner/n2:assigned", "HSET node:owner/n1:assigned a b", "DEL node:owner/n1:assigned",
        "PUBLISH /0.celeryev/owner/n2/worker.online x", "PUBLISH /0.celery.pidbox x",
        "PUBLISH /0.ctl.owner/n2.pidbox x", "SUBSCRIBE anything", "PSUBSCRIBE *", "HGETALL unacked",
        "SADD _kombu.binding.celery x", "SMEMBERS _kombu.binding.celery",
    ],
)  # fmt: skip
def test_a_command_that_is_not_the_agents_is_denied(own_client: redis.Redis, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        own_client.execute_command(*command.split())


@pytest.fixture
def own_client(valkey: TestValkey) -> redis.Redis:
    rules = split_rules(smallest_acl("owner/n1"))
    valkey.admin.execute_command("ACL", "SETUSER", "table", "reset", "on", ">table-password", *rules)
    return valkey.client("table", "table-password")
