"""Which of the voices of one conversation is this? Compares vectors; knows no audio and no names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_VOICES: Final = 16  # then the nearest known one is taken
MAX_WEIGHT_S: Final = 60.0  # of a mean, so that a voice may drift


@dataclass(frozen=True, slots=True)
class SpeakerGuess:
    """Who spoke, by number in order of appearance."""

    number: int  # from 1
    similarity: float  # cosine to what this voice was before; 1 when it is new


@dataclass(slots=True)
class _Voice:
    mean: npt.NDArray[np.float32]  # (dim,), weighted by seconds, not normalised
    seconds: float


class Speakers:
    """The voices heard so far, each a running mean."""

    def __init__(self, same_speaker_similarity: float) -> None:
        self._same = same_speaker_similarity
        self._voices: list[_Voice] = []

    def assign(self, vector: npt.NDArray[np.float32], seconds: float) -> SpeakerGuess:
        """Take `vector`, (dim,), for the most similar voice, or for a new one when none is similar enough."""
        guess, vector = self.guess(vector), _normalised(vector)
        if guess.number > len(self._voices):
            self._voices.append(_Voice(vector, min(seconds, MAX_WEIGHT_S)))
            return guess
        voice = self._voices[guess.number - 1]
        total = voice.seconds + seconds
        voice.mean += np.float32(seconds / max(total, 1e-9)) * (vector - voice.mean)
        voice.seconds = min(total, MAX_WEIGHT_S)
        return guess

    def guess(self, vector: npt.NDArray[np.float32]) -> SpeakerGuess:
        """What `assign` would say, without learning from it."""
        vector = _normalised(vector)
        similarities = [
            float(vector @ voice.mean) / max(float(np.linalg.norm(voice.mean)), 1e-9) for voice in self._voices
        ]
        best = int(np.argmax(similarities)) if similarities else -1
        if best < 0 or (similarities[best] < self._same and len(self._voices) < MAX_VOICES):
            return SpeakerGuess(len(self._voices) + 1, 1.0)
        return SpeakerGuess(best + 1, similarities[best])


def _normalised(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)
