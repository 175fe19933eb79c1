"""When the server decides that a person has begun and ended a turn, in the words of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent.protocol.fields import Fields

MAX_PREFIX_MS: Final = 2_000
MIN_SILENCE_MS: Final = 100
MAX_SILENCE_MS: Final = 10_000
MIN_IDLE_MS: Final = 5_000
MAX_IDLE_MS: Final = 30_000
SERVER_VAD_ONLY: Final = ("threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms")

Eagerness = Literal["low", "medium", "high", "auto"]


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """By silence alone, or by what was said before it as well."""

    threshold: float = 0.5  # 0 to 1; higher takes less for speech
    prefix_padding_ms: int = 300  # kept from before the first speech
    silence_duration_ms: int = 500  # that ends a turn
    create_response: bool = True  # answer when a turn ends
    interrupt_response: bool = True  # fall silent when a turn begins
    idle_timeout_ms: int | None = None  # of silence after a reply, then speak up; None: never
    eagerness: Eagerness | None = None  # of `semantic_vad`; None: it is `server_vad`

    def to_wire(self) -> dict[str, Any]:
        """As the protocol writes it."""
        both = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.eagerness is not None:
            return {"type": "semantic_vad", "eagerness": self.eagerness, **both}
        return {
            "type": "server_vad",
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            **both,
            "idle_timeout_ms": self.idle_timeout_ms,
        }


SERVER_VAD: Final = TurnDetection()  # what a session begins with, where the operator says nothing


def merge_detection(current: TurnDetection | None, patch: Fields, defaults: TurnDetection) -> TurnDetection:
    """What stands, with a patch; `defaults` where nothing stood, or another type.

    Raises ProtocolError when any part of the patch cannot be taken.
    """
    detection = current or defaults
    if current is None or "type" in patch:
        semantic = patch.choice("type", ["server_vad", "semantic_vad"]) == "semantic_vad"
        if semantic != (detection.eagerness is not None):
            detection = replace(defaults, eagerness="auto" if semantic else None)
    detection = _merge_semantic(detection, patch) if detection.eagerness else _merge_silence(detection, patch)
    if "create_response" in patch:
        detection = replace(detection, create_response=patch.flag("create_response"))
    if "interrupt_response" in patch:
        detection = replace(detection, interrupt_response=patch.flag("interrupt_response"))
    return detection


def _merge_semantic(detection: TurnDetection, patch: Fields) -> TurnDetection:
    for name in SERVER_VAD_ONLY:
        patch.refuse(name, "semantic_vad decides that by itself; it belongs to server_vad")
    if "eagerness" in patch:
        return replace(detection, eagerness=patch.choice("eagerness", ["low", "medium", "high", "auto"]))
    return detection


def _merge_silence(detection: TurnDetection, patch: Fields) -> TurnDetection:
    patch.refuse("eagerness", "server_vad ends a turn after silence_duration_ms; it belongs to semantic_vad")
    if "threshold" in patch:
        detection = replace(detection, threshold=patch.number("threshold", 0, 1))
    if "prefix_padding_ms" in patch:
        prefix_ms = patch.integer("prefix_padding_ms", 0, MAX_PREFIX_MS)
        detection = replace(detection, prefix_padding_ms=prefix_ms)
    if "silence_duration_ms" in patch:
        silence_ms = patch.integer("silence_duration_ms", MIN_SILENCE_MS, MAX_SILENCE_MS)
        detection = replace(detection, silence_duration_ms=silence_ms)
    if "idle_timeout_ms" in patch:
        idle = patch.value("idle_timeout_ms") is not None
        idle_ms = patch.integer("idle_timeout_ms", MIN_IDLE_MS, MAX_IDLE_MS) if idle else None
        detection = replace(detection, idle_timeout_ms=idle_ms)
    return detection
