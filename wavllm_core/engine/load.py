"""How busy the engine is, in figures that can be exported. Knows no work, only how long it took."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

SMOOTHING = 0.1  # weight of the newest figure in a running mean
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """How often a figure was how large, since the engine began."""

    bounds: tuple[float, ...]  # up to which a bucket reaches, itself included
    counts: tuple[int, ...]  # of each bucket; one more, for what is above all bounds
    total: float  # of all figures


@dataclass(frozen=True)
class Load:
    """A reading. Times are running means."""

    idle: bool  # nothing is left to do
    conversations: int  # open
    utterances: int  # that are listened to
    replies: int  # under way, transcripts and speculations included
    slots_held: int
    slots: int
    positions_filled: int  # of the key-value store
    positions: int
    queue_wait_ms: float  # from when work could have begun to when it did
    encoder_step_ms: float
    decoder_step_ms: float
    evictions: int  # conversations that lost their keys and values to others
    speculations: int
    speculations_used: int
    tokens_wasted: int  # decoded on speculation and never said
    spreads: Mapping[str, Spread] = field(default_factory=dict)  # of figures that are one for each step

    def numbers(self) -> dict[str, float]:
        """All but the spreads."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "spreads"}


@dataclass
class Measure:
    """A figure that comes again and again: its running mean, which forgets, and its spread, which does not."""

    bounds: tuple[float, ...]
    value: float = 0.0
    _total: float = 0.0
    _counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.value += SMOOTHING * (value - self.value)
        self._total += value
        self._counts[bisect_left(self.bounds, value)] += 1

    def spread(self) -> Spread:
        return Spread(self.bounds, tuple(self._counts), self._total)


@dataclass
class Meter:
    """What the worker measures as it goes."""

    queue_wait_s: Measure = field(default_factory=lambda: Measure(STEP_S))
    encoder_step_s: Measure = field(default_factory=lambda: Measure(STEP_S))
    decoder_step_s: Measure = field(default_factory=lambda: Measure(STEP_S))
    kv_share: Measure = field(default_factory=lambda: Measure(SHARES))  # of positions filled, after a decoder step
    evictions: int = 0

    def spreads(self) -> dict[str, Spread]:
        """By name, with its unit."""
        return {
            "queue_wait_seconds": self.queue_wait_s.spread(),
            "encoder_step_seconds": self.encoder_step_s.spread(),
            "decoder_step_seconds": self.decoder_step_s.spread(),
            "kv_used_ratio": self.kv_share.spread(),
        }
