"""Where an agent goes on with its output while the broker is full or away: no run waits for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.usecases.agent_attempts import OutputIntake
from nodepool.domain.errors import BrokerFullError, UnavailableError
from nodepool.protocol import nodepool_pb2 as pb

REQUEST = pb.AppendOutputRequest(node_id="n1", attempt_id="a:1", offset=100, data=b"12345")


class Broker:
    """Takes output, or raises what it is told to."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked = 0

    def append(self, _attempt_id: str, offset: int, data: bytes, *, task_id: str) -> int:
        assert task_id == "t"
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return offset + len(data)


class Stage:
    def __init__(self) -> None:
        self.broker, self.now = Broker(), 50.0
        live = SimpleNamespace(stop_requested=True, id="t")
        gateway: Any = SimpleNamespace(outputs=self.broker, database=SimpleNamespace(read=lambda _: live))
        self.intake = OutputIntake(gateway, clock=lambda: self.now)

    def next_offset(self) -> int:
        answer = self.intake.append(SimpleNamespace(user_id=1), REQUEST)  # type: ignore[arg-type]
        assert answer.stop_requested
        return answer.next_offset


def test_a_full_broker_drops_output_at_once() -> None:
    stage = Stage()
    assert stage.next_offset() == 105
    stage.broker.trouble = BrokerFullError()
    assert stage.next_offset() == 105


def test_an_agent_sends_again_what_it_said_during_a_short_outage() -> None:
    stage = Stage()
    stage.broker.trouble = UnavailableError()
    assert stage.next_offset() == 100
    stage.now += 9
    assert stage.next_offset() == 100
    stage.broker.trouble = None
    assert stage.next_offset() == 105
    # The next outage has its own time.
    stage.now += 60
    stage.broker.trouble = UnavailableError()
    assert stage.next_offset() == 100


def test_a_long_outage_holds_no_output_up_and_is_not_asked_about_each_time() -> None:
    stage = Stage()
    stage.broker.trouble = UnavailableError()
    stage.next_offset()
    stage.now += 10
    assert stage.next_offset() == 105
    asked = stage.broker.asked
    assert stage.next_offset() == 105
    assert stage.broker.asked == asked
    stage.now += 1
    assert stage.next_offset() == 105
    assert stage.broker.asked == asked + 1
