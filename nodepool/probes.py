"""Tasks with an answer that the pool can check: what they compute, and what their end says of a node. Pure.

A probe is chains of PBKDF2-HMAC-SHA-512, one for each core, cut into segments. Each segment begins with what
the one before ended with; the node returns all those values. Why this:

- It cannot be prepared or looked up: everything hangs on a seed that is made for this probe, and the node
  reads that after it has claimed the task, when the pool's clock runs already.
- A chain cannot be cut up. Who leaves segments out, or does them at once from values that he made up, has a
  wrong value at each border. The pool draws some borders when the answer has come and does those segments
  itself: a few of `SEGMENTS` x chains, so that checking is cheap. Whoever does a tenth of the work is caught
  by one draw of ten, and so by four with all but one in ten thousand.
- A better program gains nothing: Python hands the loop to OpenSSL, and it runs as native code everywhere. A
  chain of modular squarings could be checked with less work still, by who knows the factors; but a good
  library does those ten times as fast as Python, and a cheater would pass for ten times what he has.

How long it took is the pool's own measurement. All of a node's points are probed at once, while nothing else
runs there: what can be promised to tasks is what all cores together bring.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

# What a core of the reference machine does in a second is a thousand of these.
ROUNDS_PER_POINT_SECOND = 2500
SEGMENTS = 64
# More cores than these are not asked for more chains, but for longer ones.
MOST_CHAINS = 64
CHECKED_SEGMENTS = 4
# Seconds that the claimed score should take; a node that is believed less than it claims is measured longer.
SECONDS, SECONDS_IN_DOUBT = 1, 4
# What is not the node's speed: fetching the package, starting a container, sending the result.
OVERHEAD_SECONDS = 2.0
# A node is slow when it shows less than its score divided by this. Machines are noisy, and a desktop is used.
SLOW_FACTOR = 4.0
# So many slow ones in a row are no accident.
SLOW_TIMES = 3
# Done in less than this share of its time: the node has more than it is believed to have.
FAST_SHARE = 0.75
MAX_MINUTES = 2
MAX_ANSWER_BYTES = 1 << 20
ANSWER_FILE = "answer.txt"
_VALUE_BYTES = 16

_SOURCE = """\
import hashlib
from concurrent.futures import ThreadPoolExecutor

SEED, CHAINS, SEGMENTS, ROUNDS = {seed!r}, {chains}, {segments}, {rounds}


def chain(number):
    value = f"{{SEED}}:{{number}}".encode()
    values = []
    for segment in range(SEGMENTS):
        salt = f"{{SEED}}:{{number}}:{{segment}}".encode()
        value = hashlib.pbkdf2_hmac("sha512", value, salt, ROUNDS, {value_bytes})
        values.append(value.hex())
    return values


with ThreadPoolExecutor(CHAINS) as threads:
    with open({answer_file!r}, "w") as answer:
        for values in threads.map(chain, range(CHAINS)):
            answer.write(" ".join(values) + "\\n")
"""


def chains_of(cores: int) -> int:
    return min(MOST_CHAINS, max(1, cores))


class Verdict(StrEnum):
    RIGHT = "right"
    SLOW = "slow"  # right, or cut off at its bound, and far too late for the claimed score
    WRONG = "wrong"
    SILENT = "silent"  # it ended without an answer; that may be anybody's fault
    WITHDRAWN = "withdrawn"  # it found no moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    seed: str
    chains: int
    rounds: int  # of each segment

    @classmethod
    def of(cls, seed: str, *, work: int, chains: int) -> Probe:
        """`work` in points x seconds."""
        rounds = max(1, work * ROUNDS_PER_POINT_SECOND // (chains * SEGMENTS))
        return cls(seed=seed, chains=chains, rounds=rounds)

    def source(self) -> str:
        return _SOURCE.format(
            seed=self.seed,
            chains=self.chains,
            segments=SEGMENTS,
            rounds=self.rounds,
            value_bytes=_VALUE_BYTES,
            answer_file=ANSWER_FILE,
        )

    def package(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            # A time of its own would make two packages of one probe differ.
            archive.writestr(zipfile.ZipInfo("main.py"), self.source())
        return buffer.getvalue()

    def is_right(self, answer: bytes, draws: Sequence[float]) -> bool:
        """Does the answer hold at these segments? `draws`: 0 <= draw < 1 each, made after the answer came."""
        chains = _read(answer)
        if len(chains) != self.chains or any(len(values) != SEGMENTS for values in chains):
            return False
        for draw in draws:
            number, segment = divmod(int(draw * self.chains * SEGMENTS), SEGMENTS)
            values = chains[number]
            before = values[segment - 1] if segment else f"{self.seed}:{number}".encode()
            salt = f"{self.seed}:{number}:{segment}".encode()
            if hashlib.pbkdf2_hmac("sha512", before, salt, self.rounds, _VALUE_BYTES) != values[segment]:
                return False
        return True


def _read(answer: bytes) -> list[list[bytes]]:
    """Empty for what is no answer: it comes from strangers."""
    try:
        lines = answer.decode("ascii").splitlines()
        chains = [[bytes.fromhex(word) for word in line.split(" ")] for line in lines[: MOST_CHAINS + 1]]
    except ValueError:
        return []
    fits = all(len(value) == _VALUE_BYTES for values in chains for value in values)
    return chains if fits else []


def answer_of(result: bytes) -> bytes:
    """The answer in a result ZIP; empty when there is none that can be read within bounds."""
    try:
        with zipfile.ZipFile(io.BytesIO(result)) as archive, archive.open(ANSWER_FILE) as file:
            answer = file.read(MAX_ANSWER_BYTES + 1)
    except Exception:  # noqa: BLE001 - a result is made on a stranger's machine
        return b""
    return answer if len(answer) <= MAX_ANSWER_BYTES else b""


# -- what it says of the node ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What the pool holds of a node's cpu_score. `measured` 0: its claim is taken."""

    claimed: int
    measured: int = 0
    slow: int = 0  # probes in a row

    @property
    def score(self) -> int:
        return min(self.claimed, self.measured) if self.measured else self.claimed

    @property
    def seconds(self) -> int:
        return SECONDS_IN_DOUBT if self.measured else SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    belief: Belief
    false_claim: bool = False


def shown_score(work: int, seconds: float) -> int:
    """The score that a node shows that did so much in this time, in its favour."""
    return max(1, int(work / max(seconds - OVERHEAD_SECONDS, 0.1)))


def is_slow(work: int, seconds: float, score: int) -> bool:
    return shown_score(work, seconds) < score / SLOW_FACTOR


def judge(
    belief: Belief, verdict: Verdict, *, work: int, seconds: float, others_answer: bool = False
) -> Judged:
    """What a probe makes of the belief. A claim counts as false once, when it is corrected.

    `others_answer`: nodes of other owners have answered probes lately. Then one that never does counts as
    slow too: who does not want to be measured is believed less, but was not found to be wrong.
    """
    if verdict is Verdict.RIGHT:
        measured = belief.measured
        if measured and seconds < FAST_SHARE * work / belief.score:
            measured *= 2
        # Nothing is left to correct.
        measured = 0 if measured >= belief.claimed else measured
        return Judged(belief=Belief(claimed=belief.claimed, measured=measured))
    silent = verdict is Verdict.SILENT
    if verdict is not Verdict.SLOW and not (silent and others_answer):
        return Judged(belief=belief)
    slow = belief.slow + 1
    if slow < SLOW_TIMES:
        return Judged(belief=replace(belief, slow=slow))
    least = int(belief.score / SLOW_FACTOR)
    measured = max(1, least if silent else min(shown_score(work, seconds), belief.score))
    found = not silent and belief.measured == 0
    return Judged(belief=Belief(claimed=belief.claimed, measured=measured), false_claim=found)
