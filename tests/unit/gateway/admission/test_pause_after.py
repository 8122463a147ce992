"""Of a stream's small messages there are only so many in a minute; what carries something never waits."""

from __future__ import annotations

from gateway.admission.arrival import Arrival
from gateway.admission.request_limits import RequestLimits
from gateway.auth.tokens import CallerIdentity
from nodepool.settings import Settings

BURST = 6000


def _arrival(user_id: int = 0, address: str = "192.0.2.1") -> Arrival:
    identity = CallerIdentity(user_id, "ada", "user") if user_id else None
    return Arrival("/nodepool.MasterNodeService/UploadTaskStream", "peer", address, identity)


def test_a_flood_of_small_messages_waits_whatever_the_number_of_streams() -> None:
    now = [0.0]
    limits = RequestLimits(Settings.model_validate({}), clock=lambda: now[0])
    rude, kind, nobody = _arrival(7), _arrival(8), _arrival()
    for arrival in (rude, nobody):
        assert not any(limits.pause_after(arrival, 1) for _ in range(BURST))
        pauses = [limits.pause_after(arrival, 0) for _ in range(100)]
        assert pauses == sorted(pauses)
        # Each waits for those before it: a hundred in a second, and not a hundred at once.
        assert 0.9 < pauses[-1] < 1.1
        assert limits.pause_after(arrival, 64 << 10) == 0
    assert limits.pause_after(kind, 1) == limits.pause_after(_arrival(address="192.0.2.2"), 1) == 0
    now[0] = 120.0
    assert limits.pause_after(rude, 1) == 0
