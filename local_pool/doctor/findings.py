"""What a check found, and how all of them are run: one that breaks is a finding too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodepool.domain.errors import NodePoolError


class FindingLevel(StrEnum):
    OK = "ok"
    WARNING = "warning"  # the pool works, and will not for ever, or not as it should
    FAULT = "fault"  # the pool does not work, or loses something


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """`action`: what to do; empty where nothing is."""

    check: str
    level: FindingLevel
    message: str
    action: str = ""


Check = Callable[[], Iterable[DoctorFinding]]


def ok(check: str, message: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.OK, message)


def warning(check: str, message: str, action: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.WARNING, message, action)


def fault(check: str, message: str, action: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.FAULT, message, action)


def run(checks: Sequence[tuple[str, Check]]) -> Iterator[DoctorFinding]:
    for name, check in checks:
        try:
            yield from check()
        except NodePoolError as error:
            yield fault(name, str(error), "put that right, and ask again")
        except Exception as error:  # noqa: BLE001 - the other checks go on
            words = f"it could not be checked: {type(error).__name__}: {error}"
            yield fault(name, words, "look at what the message names; this user may not be allowed to look")
