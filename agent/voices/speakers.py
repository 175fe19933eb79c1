"""Which of the voices of one conversation is this, and whose? Compares vectors; knows no audio and no files.

Voices are numbered as they appear. One that is like an enrolled person has a name from the start; another can be
given one later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.voices.people import People, likeness
from agent.voices.store import Person
from agent.voices.voiced import Detect
from wavllm_core.voices import VoiceScale

MAX_VOICES: Final = 16  # then only enrolled people are new; of anybody else the nearest known one is taken
MAX_WEIGHT_S: Final = 60.0  # of a mean, so that a voice may drift

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """What the operator decides about voices."""

    scale: VoiceScale = field(default_factory=VoiceScale)
    people: People | None = None  # who is known by name
    clients_may_enrol: bool = False
    detect: Detect | None = None  # speech, in what is to be enrolled


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


class Match(NamedTuple):
    """How well a voice fits."""

    margin: float  # above what is needed
    similarity: float
    number: int
    person: Person | None


@dataclass(slots=True)
class Voice:
    """One voice of the conversation."""

    number: int
    mean: Vector  # (dim,), weighted by seconds, not normalised
    seconds: float
    person: Person | None = None
    name: str | None = None  # given here

    @property
    def called(self) -> str | None:
        """By people; None: it has no name."""
        return self.name or (self.person.name if self.person else None)

    def match(self, vector: Vector, scale: VoiceScale) -> Match:
        """To what it was here, or when it was enrolled, whichever fits better."""
        here = likeness(self.mean, vector)
        matches = [Match(here - scale.same_similarity, here, self.number, self.person)]
        if self.person:
            matches.append(_enrolled(self.person, vector, scale, self.number))
        return max(matches, key=_margin)


class Speakers:
    """The voices heard so far, each a running mean, and those that might be heard."""

    def __init__(self, scale: VoiceScale, known: Sequence[Person] = ()) -> None:
        self._scale, self._known = scale, list(known)
        self.voices: list[Voice] = []

    def assign(self, vector: Vector, seconds: float, new_from_s: float = 0.0) -> SpeakerGuess:
        """Take `vector`, (dim,), for the most similar voice, or for a new one when none is similar enough.

        new_from_s: less speech than this is taken for the nearest known voice, as it says too little of a new one
        """
        guess, vector = self.guess(vector, may_be_new=seconds >= new_from_s), _normalised(vector)
        if guess.number > len(self.voices):
            person = next((person for person in self._known if person.id == guess.person_id), None)
            self.voices.append(Voice(guess.number, vector, min(seconds, MAX_WEIGHT_S), person))
        else:
            voice = self.voices[guess.number - 1]
            if voice.match(vector, self._scale).margin < 0:  # taken for it only for want of a better one
                return guess
            total = voice.seconds + seconds
            voice.mean += np.float32(seconds / max(total, 1e-9)) * (vector - voice.mean)
            voice.seconds = min(total, MAX_WEIGHT_S)
        return guess

    def guess(self, vector: Vector, may_be_new: bool = True) -> SpeakerGuess:
        """What `assign` would say, without learning from it."""
        vector, new = _normalised(vector), len(self.voices) + 1
        heard = [voice.match(vector, self._scale) for voice in self.voices]
        present = {voice.person.id for voice in self.voices if voice.person}
        absent = [_enrolled(person, vector, self._scale, new) for person in self._known if person.id not in present]
        room = len(self.voices) < MAX_VOICES
        best = max([*heard, *absent], key=_margin, default=None)
        if heard and not (room and may_be_new) and (best is None or best.margin < 0):
            best = max(heard, key=_margin)
        elif best is None or best.margin < 0:
            likest = max((match.similarity for match in [*heard, *absent]), default=-1.0)
            return SpeakerGuess(new, 1.0, 1 - self._scale.confidence(likest))
        enrolled = best.person.name if best.person else None
        name = self.voices[best.number - 1].called if best.number < new else enrolled
        certain = best.margin >= 0  # else it is only the nearest, for want of room or of speech
        person_id = best.person.id if best.person and certain else None
        return SpeakerGuess(best.number, best.similarity, self._scale.confidence(best.similarity), name, person_id)

    def enrolled_name(self, vector: Vector) -> str | None:
        """Of the enrolled person whose voice this is, whatever it is called here; None: it is nobody's."""
        person_id = self.guess(vector).person_id
        return next((person.name for person in self._everybody if person.id == person_id), None)

    @property
    def _everybody(self) -> list[Person]:
        """Who was enrolled, before this conversation or in it."""
        return [*self._known, *(voice.person for voice in self.voices if voice.person)]

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
        return {voice.number: voice.called for voice in self.voices if voice.called}


def _enrolled(person: Person, vector: Vector, scale: VoiceScale, number: int) -> Match:
    similarity = likeness(person.mean, vector)
    return Match(similarity - scale.limit_to_know, similarity, number, person)


def _margin(match: Match) -> float:
    return match.margin


def _normalised(vector: Vector) -> Vector:
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)
