"""When to answer before it is certain that the person has finished, and what came of it.

Pure policy and counting; the held answers themselves are in `talks`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeculationLimits:
    """What speculation may cost."""

    per_utterance: int = 3  # 0 switches it off
    tokens: int = 64  # decoded ahead, then it waits to be wanted
    max_queue_wait_ms: float = 40.0  # of others; with more, nobody speculates


@dataclass
class Speculation:
    """Permits and counts."""

    limits: SpeculationLimits
    begun: int = 0
    used: int = 0
    tokens_wasted: int = 0

    def permits(self, tried: int, queue_wait_ms: float) -> bool:
        """Whether an utterance that was speculated on `tried` times may be once more."""
        return tried < self.limits.per_utterance and queue_wait_ms <= self.limits.max_queue_wait_ms
