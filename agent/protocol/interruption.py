"""Extension: what speech during a reply does to it. In a session, under the key `wavllm.interruption`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agent.protocol.fields import Fields

MAX_HOLD_MS: Final = 2_000
MAX_BACK_CHANNELS: Final = 64
MAX_BACK_CHANNEL_CHARS: Final = 64
MURMURS: Final = ("ah", "hm", "hmm", "mhm", "mm", "mm hmm", "mmm", "oh", "uh", "uh huh", "um")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Interruption:
    """What is taken for an interruption. As it stands, speech stops a reply at once, as OpenAI has it."""

    hold_ms: int = 0  # of voice, before speech stops a reply; what ends earlier is judged by its words
    short_ms: int = 0  # less of voice than this is no words, whatever it is taken for
    back_channels: tuple[str, ...] = MURMURS  # what listeners say who want to hear more
    resume: bool = True  # go on with a reply that was stopped by nothing
    unsure_ms: int = 1_000  # less of voice than this is no words, where the model is not sure of them
    min_confidence: float = 0.65  # from which on it is: the geometric mean of its tokens' probabilities

    def to_wire(self) -> dict[str, Any]:
        return asdict(self) | {"back_channels": list(self.back_channels)}

    def is_unsure(self, confidence: float, voiced_ms: float) -> bool:
        """Whether what was written down may as well have been a noise."""
        return voiced_ms < self.unsure_ms and confidence < self.min_confidence

    def is_nothing(self, transcript: str) -> bool:
        """Whether somebody who said this wants no answer to it."""
        said, phrases = _words(transcript), [_words(phrase) for phrase in self.back_channels]
        reached = {0}  # words up to which all is made of phrases
        for start in range(len(said)):
            if start in reached:
                reached |= {start + len(phrase) for phrase in phrases if said[start : start + len(phrase)] == phrase}
        return len(said) in reached


def merge_interruption(current: Interruption, patch: Fields) -> Interruption:
    """The settings after `session.wavllm.interruption` of an update. Raises ProtocolError for what cannot be."""
    settings = current
    if "hold_ms" in patch:
        settings = replace(settings, hold_ms=patch.integer("hold_ms", 0, MAX_HOLD_MS))
    if "short_ms" in patch:
        settings = replace(settings, short_ms=patch.integer("short_ms", 0, MAX_HOLD_MS))
    if "unsure_ms" in patch:
        settings = replace(settings, unsure_ms=patch.integer("unsure_ms", 0, MAX_HOLD_MS))
    if "min_confidence" in patch:
        settings = replace(settings, min_confidence=patch.number("min_confidence", 0, 1))
    if "back_channels" in patch:
        phrases = patch.texts("back_channels", MAX_BACK_CHANNELS, MAX_BACK_CHANNEL_CHARS)
        if wordless := wordless_phrase(phrases):
            raise patch.wrong("back_channels", f"phrases of words, which {wordless!r} is not")
        settings = replace(settings, back_channels=phrases)
    if "resume" in patch:
        settings = replace(settings, resume=patch.flag("resume"))
    return settings


def wordless_phrase(phrases: Iterable[str]) -> str | None:
    """The first that nobody could say; None: there is none."""
    return next((phrase for phrase in phrases if not _words(phrase)), None)


def _words(text: str) -> list[str]:
    """As they are compared."""
    return _WORD.findall(text.casefold())
