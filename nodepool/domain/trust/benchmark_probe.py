"""Tasks with an answer that the pool can check: what they compute, and what their end says of a node. Pure.

A probe is chains of PBKDF2-HMAC-SHA-512, one for each core, cut into segments. Each segment begins with what
the one before ended with; the node returns all those values. Why this:

- It cannot be prepared or looked up: everything hangs on a seed that is made for this probe, and the node
  reads that after it has claimed the task, when the pool's clock runs already.
- A chain cannot be cut up. Who leaves segments out, or does them at once from values that they made up, has a
  wrong value at each border. The pool draws some borders when the answer has come and does those segments
  itself: a few of `SEGMENTS` x chains, so that checking is cheap. Whoever does a tenth of the work is caught
  by one draw of ten, and so by four with all but one in ten thousand.
- A better program gains nothing: Python hands the loop to OpenSSL, and it runs as native code everywhere. A
  chain of modular squarings could be checked with less work still, by who knows the factors; but a good
  library does those ten times as fast as Python, and a cheater would pass for ten times what they have.

How long it took is the pool's own measurement. All of a node's points are probed at once, while nothing else
runs there: what can be promised to tasks is what all cores together bring.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import BinaryIO

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
# What an agent gives to a run that asks for no memory; a test compares.
DEFAULT_RUN_MEMORY_BYTES = 512 << 20
_VALUE_BYTES = 16

# Every name in capitals is replaced by another, so that no two probes read alike.
_SOURCE = """\
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

SEED, CHAINS, SEGMENTS, ROUNDS = {seed!r}, {chains}, {segments}, {rounds}


def READ(PATH):
    try:
        with open(PATH) as HANDLE:
            return HANDLE.read(4096)
    except OSError:
        return ""


def LOOK():
    STATUS = dict(LINE.split(":", 1) for LINE in READ("/proc/self/status").splitlines() if ":" in LINE)
    MEMORY = READ("/sys/fs/cgroup/memory.max") or READ("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    WORDS = [MEMORY, str(os.statvfs("/").f_flag & os.ST_RDONLY)]
    WORDS += [STATUS.get(NAME, "") for NAME in ("NoNewPrivs", "CapEff", "CapBnd")]
    WORDS += [str(any(os.path.exists(PATH) for PATH in ("/.dockerenv", "/run/.containerenv")))]
    return ",".join("".join(WORD.split()) for WORD in WORDS)


def CHAIN(NUMBER):
    VALUE = f"{{SEED}}:{{SEEN}}:{{NUMBER}}".encode()
    VALUES = []
    for SEGMENT in range(SEGMENTS):
        SALT = f"{{SEED}}:{{NUMBER}}:{{SEGMENT}}".encode()
        VALUE = hashlib.pbkdf2_hmac("sha512", VALUE, SALT, ROUNDS, {value_bytes})
        VALUES.append(VALUE.hex())
    return VALUES


SEEN = LOOK()
with ThreadPoolExecutor(CHAINS) as THREADS:
    with open({answer_file!r}, "w") as ANSWER:
        ANSWER.write(SEEN + "\\n")
        for VALUES in THREADS.map(CHAIN, range(CHAINS)):
            ANSWER.write(" ".join(VALUES) + "\\n")
"""
# What its places for names are called; `{{` and the like of str.format are none.
NAMES = (
    "SEED", "CHAINS", "SEGMENTS", "ROUNDS", "READ", "PATH", "HANDLE", "LOOK", "STATUS", "LINE", "MEMORY",
    "WORDS", "WORD", "NAME", "CHAIN", "NUMBER", "VALUE", "VALUES", "SEGMENT", "SALT", "SEEN",
    "THREADS", "ANSWER",
)  # fmt: skip
_NAME = re.compile(r"\b(?:" + "|".join(NAMES) + r")\b")
# One of these, by the seed.
_ANSWER_FILES = (
    "result.txt",
    "output.txt",
    "out.txt",
    "results.csv",
    "values.txt",
    "data.out",
    "summary.txt",
)
_MAX_SEEN, _SEEN_WORDS = 400, 6


def chains_of(cores: int) -> int:
    return min(MOST_CHAINS, max(1, cores))


class ProbeVerdict(StrEnum):
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

    @property
    def answer_file(self) -> str:
        digest = hashlib.sha256(self.seed.encode()).digest()
        return _ANSWER_FILES[digest[0] % len(_ANSWER_FILES)]

    def source(self, names: Mapping[str, str] | None = None) -> str:
        """`names`: what each of NAMES is called."""
        words = dict(names or {})
        return _NAME.sub(
            lambda found: words.get(found[0], found[0].lower() + "_"),
            _SOURCE.format(
                seed=self.seed,
                chains=self.chains,
                segments=SEGMENTS,
                rounds=self.rounds,
                value_bytes=_VALUE_BYTES,
                answer_file=self.answer_file,
            ),
        )

    def is_right(self, answer: bytes, draws: Sequence[float]) -> bool:
        """Does the answer hold at these segments? `draws`: 0 <= draw < 1 each, made after the answer came."""
        seen, _, rest = answer.partition(b"\n")
        chains = _read(rest)
        if (
            len(seen) > _MAX_SEEN
            or len(chains) != self.chains
            or any(len(values) != SEGMENTS for values in chains)
        ):
            return False
        for draw in draws:
            number, segment = divmod(int(draw * self.chains * SEGMENTS), SEGMENTS)
            values = chains[number]
            first = f"{self.seed}:".encode() + seen + f":{number}".encode()
            before = values[segment - 1] if segment else first
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


def ran_in_container(answer: bytes, memory_bytes: int) -> bool:
    """Whether a right answer says that it was made in a container with this memory.

    What the program saw goes into every value of the answer, so that it cannot be changed afterwards. Whoever
    rewrites the program can make it see what they like: this finds out nodes that have no working engine, or
    one that does not limit what it runs, and not those who take the trouble to pretend.
    """
    words = answer.partition(b"\n")[0].decode("ascii", "replace").split(",")
    if len(words) != _SEEN_WORDS:
        return False
    memory, read_only, no_new_privileges, effective, bounding, marked = words
    no_capabilities = effective.strip("0") == bounding.strip("0") == "" and bool(effective and bounding)
    return (
        memory == str(memory_bytes)
        and read_only == "1"
        and no_new_privileges == "1"
        and no_capabilities
        and marked == "True"
    )


def answer_of(result: BinaryIO, name: str) -> bytes:
    """The answer in a result ZIP; empty when there is none that can be read within bounds."""
    try:
        with zipfile.ZipFile(result) as archive, archive.open(name) as file:
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
    belief: Belief, verdict: ProbeVerdict, *, work: int, seconds: float, others_answer: bool = False
) -> Judged:
    """What a probe makes of the belief. A claim counts as false once, when it is corrected.

    `others_answer`: nodes of other owners have answered probes lately. Then one that never does counts as
    slow too: who does not want to be measured is believed less, but was not found to be wrong.
    """
    if verdict is ProbeVerdict.RIGHT:
        measured = belief.measured
        if measured and seconds < FAST_SHARE * work / belief.score:
            measured *= 2
        # Nothing is left to correct.
        measured = 0 if measured >= belief.claimed else measured
        return Judged(belief=Belief(claimed=belief.claimed, measured=measured))
    silent = verdict is ProbeVerdict.SILENT
    if verdict is not ProbeVerdict.SLOW and not (silent and others_answer):
        return Judged(belief=belief)
    slow = belief.slow + 1
    if slow < SLOW_TIMES:
        return Judged(belief=replace(belief, slow=slow))
    least = int(belief.score / SLOW_FACTOR)
    measured = max(1, least if silent else min(shown_score(work, seconds), belief.score))
    found = not silent and belief.measured == 0
    return Judged(belief=Belief(claimed=belief.claimed, measured=measured), false_claim=found)
