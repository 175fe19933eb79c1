"""How busy the engine is, in figures that can be exported. Knows no work, only how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field

SMOOTHING = 0.1  # weight of the newest figure in a running mean


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


@dataclass
class Mean:
    """A running mean that forgets."""

    value: float = 0.0

    def add(self, value: float) -> None:
        self.value += SMOOTHING * (value - self.value)


@dataclass
class Meter:
    """What the worker measures as it goes."""

    queue_wait_s: Mean = field(default_factory=Mean)
    encoder_step_s: Mean = field(default_factory=Mean)
    decoder_step_s: Mean = field(default_factory=Mean)
    evictions: int = 0
