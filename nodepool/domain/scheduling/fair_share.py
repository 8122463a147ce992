"""How well each user was served lately: the measure of fair share.

Pure. Use counts half after the half-life. Instead of shrinking every user's sum as time passes, what is
added grows (forward decay: Cormode, Shkapenyuk, Srivastava, Xu 2009), so that adding is one increment
wherever the sums are kept, and the order of two users never changes by time alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.resources import Claim

# What counts as one: a core of the reference, 4 GiB, a GPU of the reference, or 8 GiB of its memory,
# for a minute. A task that names nothing still takes a place.
_UNIT = Claim(cpu_score=1000, memory_mb=4096, gpu_score=1000, gpu_memory_gb=8)
_LEAST = 0.25
# A task is charged for this long when it is placed, and for the rest when it has ended.
EXPECTED_MINUTES = 1.0
# Within an era weights stay far below the largest float, 2**1023.
_ERA_HALF_LIVES = 500


@dataclass(frozen=True, slots=True)
class Decay:
    """What was used counts half after `half_life_seconds`. Times are Unix seconds."""

    half_life_seconds: float

    def era(self, now: float) -> int:
        """Sums of different eras have nothing to do with each other; a new one begins at zero."""
        return int(now / (self.half_life_seconds * _ERA_HALF_LIVES))

    def weight(self, now: float) -> float:
        """What one unit of use, used now, adds to a sum of this era."""
        begun = self.era(now) * self.half_life_seconds * _ERA_HALF_LIVES
        return float(2.0 ** ((now - begun) / self.half_life_seconds))


def cost_per_minute(claim: Claim) -> float:
    """The largest share of a unit that the claim takes, of any resource (dominant resource fairness:
    Ghodsi et al., NSDI 2011)."""
    return max(
        _LEAST,
        claim.cpu_score / _UNIT.cpu_score,
        claim.memory_mb / _UNIT.memory_mb,
        claim.gpu_score / _UNIT.gpu_score,
        claim.gpu_memory_gb / _UNIT.gpu_memory_gb,
    )
