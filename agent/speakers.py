"""Which of the voices of one conversation is this, and whose? Compares vectors; knows no audio and no files.

Voices are numbered as they appear. One that is like an enrolled person has a name from the start; another can be
given one later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.voices.people import MAX_UTTERANCES, People, likeness
from agent.voices.store import Person
from wavllm_core.voices import VoiceScale

MAX_VOICES: Final = 16  # then the nearest known one is taken
MAX_WEIGHT_S: Final = 60.0  # of a mean, so that a voice may drift

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """What the operator decides about voices."""

    scale: VoiceScale = field(default_factory=VoiceScale)
    people: People | None = None  # who is known by name
    clients_may_enrol: bool = False


@dataclass(frozen=True, slots=True)
class SpeakerGuess:
    """Who spoke."""

    number: int  # from 1, in order of appearance
    similarity: float  # cosine to what this voice was before; 1 when it is new
    confidence: float = 1.0  # 0 to 1: that it is the same one; of a new voice, that it is none of the others
    name: str | None = None
    person_id: str | None = None  # of an enrolled one

    @property
    def label(self) -> str:
        """How people call this voice."""
        return self.name or f"speaker {self.number}"


@dataclass(slots=True)
class Voice:
    """One voice of the conversation."""

    number: int
    mean: Vector  # (dim,), weighted by seconds, not normalised
    seconds: float
    person: Person | None = None
    name: str | None = None  # given here, to a voice that is not enrolled
    vectors: deque[Vector] = field(default_factory=lambda: deque(maxlen=MAX_UTTERANCES))  # the newest utterances

    def similarity(self, vector: Vector) -> float:
        """To what it was here, or when it was enrolled, whichever is more."""
        enrolled = likeness(self.person.vectors.mean(axis=0), vector) if self.person else -1.0
        return max(likeness(self.mean, vector), enrolled)


class Speakers:
    """The voices heard so far, each a running mean, and those that might be heard."""

    def __init__(self, scale: VoiceScale, known: Sequence[Person] = ()) -> None:
        self._scale, self._known = scale, list(known)
        self.voices: list[Voice] = []

    def assign(self, vector: Vector, seconds: float) -> SpeakerGuess:
        """Take `vector`, (dim,), for the most similar voice, or for a new one when none is similar enough."""
        guess, vector = self.guess(vector), _normalised(vector)
        if guess.number > len(self.voices):
            person = next((person for person in self._known if person.id == guess.person_id), None)
            self.voices.append(Voice(guess.number, vector, min(seconds, MAX_WEIGHT_S), person))
        else:
            voice = self.voices[guess.number - 1]
            total = voice.seconds + seconds
            voice.mean += np.float32(seconds / max(total, 1e-9)) * (vector - voice.mean)
            voice.seconds = min(total, MAX_WEIGHT_S)
        self.voices[guess.number - 1].vectors.append(vector)
        return guess

    def guess(self, vector: Vector) -> SpeakerGuess:
        """What `assign` would say, without learning from it."""
        vector = _normalised(vector)
        heard = [(voice.similarity(vector), voice) for voice in self.voices]
        present = {voice.person.id for voice in self.voices if voice.person}
        absent = [
            (likeness(person.vectors.mean(axis=0), vector), person)
            for person in self._known
            if person.id not in present
        ]
        nearest, voice = max(heard, key=lambda pair: pair[0], default=(-1.0, None))
        likest, person = max(absent, key=lambda pair: pair[0], default=(-1.0, None))
        room = len(self.voices) < MAX_VOICES
        if person and room and likest >= max(nearest, self._scale.same_similarity):
            number = len(self.voices) + 1
            return SpeakerGuess(number, likest, self._scale.confidence(likest), person.name, person.id)
        if voice and (nearest >= self._scale.same_similarity or not room):
            name, person_id = (voice.person.name, voice.person.id) if voice.person else (voice.name, None)
            return SpeakerGuess(voice.number, nearest, self._scale.confidence(nearest), name, person_id)
        others = max(nearest, likest)
        doubt = self._scale.confidence(others) if heard or absent else 0.0
        return SpeakerGuess(len(self.voices) + 1, 1.0, 1 - doubt)

    def find(self, number: int) -> Voice | None:
        """By number; None: nobody has spoken that often."""
        return self.voices[number - 1] if 1 <= number <= len(self.voices) else None

    def name(self, number: int, name: str, person: Person | None = None) -> None:
        """Call a voice by name from now on; with `person`, because it was enrolled. Raises ValueError for no voice."""
        voice = self.find(number)
        if voice is None:
            raise ValueError(f"there is no voice {number}")
        voice.name, voice.person = name, person or voice.person

    @property
    def names(self) -> dict[int, str]:
        """Of the voices that have one, by number."""
        named = {voice.number: voice.person.name if voice.person else voice.name for voice in self.voices}
        return {number: name for number, name in named.items() if name}


def _normalised(vector: Vector) -> Vector:
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)
