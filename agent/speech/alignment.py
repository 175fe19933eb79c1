"""Which words stand where in the audio of one reply, so that those nobody heard can be taken back. Pure.

Sentences are exact; within one, time is shared out by characters, and a word counts when it was heard whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from agent.speech.voice import VOICE_RATE

SAMPLES_PER_CHAR: Final = VOICE_RATE // 15  # while the voice still works on a sentence
_WORD: Final = re.compile(r"\s*\S+")


@dataclass(slots=True)
class _Sentence:
    text: str
    start_sample: int
    samples: int | None = None  # None: not known yet; 0: it has no sound

    def truncate(self, samples: int) -> None:
        """Keep the words that end within so many samples."""
        chars = len(self.text)
        lasts = chars * SAMPLES_PER_CHAR if self.samples is None else self.samples
        if samples >= lasts:
            self.samples = lasts
            return
        heard_chars = chars * samples / lasts
        end = max((word.end() for word in _WORD.finditer(self.text) if word.end() <= heard_chars), default=0)
        self.text, self.samples = self.text[:end], lasts * end // chars


@dataclass(slots=True)
class Alignment:
    """Grows while the reply is spoken. Positions are samples at the rate of voices."""

    sent_samples: int = 0
    played_ms: int | None = None  # as the client acknowledged; None: it never did
    _sentences: list[_Sentence] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(sentence.text for sentence in self._sentences)

    @property
    def generated_ms(self) -> int:
        """What the voice has made, as far as it is known; never less than what was sent."""
        made = max((one.start_sample + (one.samples or 0) for one in self._sentences), default=0)
        return -(-max(made, self.sent_samples) * 1000 // VOICE_RATE)

    @property
    def sent_ms(self) -> int:
        """Rounded up, so that a client that rounds up asks for nothing that does not exist."""
        return -(-self.sent_samples * 1000 // VOICE_RATE)

    def begin(self, text: str) -> None:
        """A sentence follows."""
        self._sentences.append(_Sentence(text, self.sent_samples))

    def add(self, samples: int) -> None:
        """Audio of the last sentence was sent."""
        self.sent_samples += samples

    def settle(self, samples: int) -> None:
        """The last sentence lasts so long, sent or not."""
        self._sentences[-1].samples = samples

    def truncate(self, end_ms: int) -> None:
        """Forget the words from there on; later than the end is the end."""
        end_sample = min(end_ms * VOICE_RATE // 1000, self.sent_samples)
        kept = []
        for sentence in self._sentences:
            if sentence.start_sample < end_sample or (sentence.samples == 0 and sentence.start_sample == end_sample):
                sentence.truncate(end_sample - sentence.start_sample)
                kept.append(sentence)
        self._sentences, self.sent_samples = kept, end_sample
