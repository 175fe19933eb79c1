"""Who is it? People that were enrolled, compared by voice. Knows vectors and names, no audio and no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.errors import EnrolmentError
from agent.voices.spelling import folded
from agent.voices.store import Person, VoiceStore, find
from agent.voices.voiced import Voicing
from wavllm_core.voices import VoiceScale

MIN_UTTERANCES: Final = 3
MAX_UTTERANCES: Final = 20
MIN_VOICED_S: Final = 0.6
MIN_VOICED_SHARE: Final = 0.4  # of an utterance that is not quiet
MAX_STILL: Final = 0.4
MIN_ONE_VOICE: Final = 0.05  # confidence that two parts of an utterance are of one person
MIN_SPEECH_SHARE: Final = 0.3  # from the first voiced sound to the last

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """One utterance for enrolment."""

    label: str  # how a complaint calls it
    vector: Vector  # (dim,), length 1
    voicing: Voicing
    parts: float = 1.0  # how alike its two parts are that are least alike, as a cosine; 1 where nobody has compared


@dataclass(frozen=True, slots=True)
class Match:
    """The person most like a voice."""

    person: Person
    similarity: float  # cosine to the mean of what was enrolled
    confidence: float  # 0 to 1: that it is this person
    accepted: bool  # similar enough to say so


class People:
    """Everybody in one store whose vectors the present model made."""

    def __init__(self, store: VoiceStore, scale: VoiceScale) -> None:
        """Reads the store. Raises RegistryError as that does."""
        self.store, self.scale = store, scale
        self._version = -1
        self.known: list[Person] = []
        self.refused: list[Person] = []  # enrolled with other weights
        self.refresh()

    def refresh(self) -> None:
        """Take over what others changed in the store. Blocks on the disk; raises RegistryError."""
        version = self.store.version()
        if version == self._version:
            return
        people, self._version = self.store.people(), version
        self.known = [person for person in people if person.fingerprint == self.scale.fingerprint]
        self.refused = [person for person in people if person.fingerprint != self.scale.fingerprint]

    def enrol(self, name: str, samples: Sequence[Sample]) -> Person:
        """Remember a voice. Raises EnrolmentError, naming the utterance at fault, when it is not certain enough."""
        check_samples(samples, self.scale)
        person = Person(name, np.stack([sample.vector for sample in samples]), self.scale.fingerprint)
        self.store.add(person)
        self.refresh()
        return person

    def rename(self, name: str, new_name: str) -> Person:
        """Raises EnrolmentError as `VoiceStore.rename`."""
        person = self.store.rename(name, new_name)
        self.refresh()
        return person

    def forget(self, name: str) -> Person:
        """Raises EnrolmentError when nobody has the name."""
        person = self.store.forget(name)
        self.refresh()
        return person

    def identify(self, vector: Vector) -> Match | None:
        """Who is most like it, accepted or not; None when nobody is known."""
        matches = [self._match(person, vector) for person in self.known]
        return max(matches, key=lambda match: match.similarity, default=None)

    def verify(self, name: str, vector: Vector) -> Match:
        """Whether it is this one. Raises EnrolmentError when nobody of this model has the name."""
        if any(folded(person.name) == folded(name) for person in self.refused):
            raise EnrolmentError(f"{name!r} was enrolled with another model; forget it and enrol again")
        return self._match(find(self.known, name), vector)

    def _match(self, person: Person, vector: Vector) -> Match:
        similarity = likeness(person.mean, vector)
        confidence = self.scale.confidence(similarity)
        return Match(person, similarity, confidence, similarity >= self.scale.limit_to_know)


def check_voicing(utterances: Mapping[str, Voicing]) -> None:
    """Raises EnrolmentError unless they, by label, are enough and speech; needs no model."""
    if not MIN_UTTERANCES <= len(utterances) <= MAX_UTTERANCES:
        wanted = f"{MIN_UTTERANCES} to {MAX_UTTERANCES} different utterances"
        raise EnrolmentError(f"{wanted} are needed to know a voice again, not {len(utterances)}")
    for label, voicing in utterances.items():
        if fault := _fault(voicing):
            raise EnrolmentError(f"{label}: {fault}; record it again")


def check_samples(samples: Sequence[Sample], scale: VoiceScale) -> None:
    """Raises EnrolmentError unless they are enough, speech, and of one voice."""
    check_voicing({sample.label: sample.voicing for sample in samples})
    if samples[0].vector.size < 2:
        raise EnrolmentError("this model tells no voices apart, so it cannot know one again")
    for sample in samples:
        if scale.confidence(sample.parts) < MIN_ONE_VOICE:
            raise EnrolmentError(f"{sample.label}: two people seem to speak in it; record it again, one person alone")
    odd, similarity = _oddest(samples)
    if similarity < scale.same_similarity:
        limit = f"{similarity:.2f} where {scale.same_similarity:.2f} is the limit"
        message = f"{odd.label}: its voice is not like that of the others ({limit}); record it again, one person alone"
        raise EnrolmentError(message)


def is_voice(voicing: Voicing) -> bool:
    """Whether an utterance is speech enough to be enrolled."""
    return not _fault(voicing)


def likeness(one: Vector, other: Vector) -> float:
    """Cosine of two vectors of any length, -1 to 1; 0 for silence."""
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 1e-9 else 0.0


def _fault(voicing: Voicing) -> str:
    if voicing.seconds < MIN_VOICED_S:
        return f"{voicing.seconds:.1f} s of voice; at least {MIN_VOICED_S} s are needed"
    if voicing.share < MIN_VOICED_SHARE:
        return f"only {100 * voicing.share:.0f} % of it sounds like a voice: noise, or somebody far away"
    if voicing.still > MAX_STILL:
        return "its pitch stands still: music or a tone, not speech"
    if voicing.speech < MIN_SPEECH_SHARE:
        return f"only {100 * voicing.speech:.0f} % of it is speech: an animal, a machine, or crying"
    return ""


def _oddest(samples: Sequence[Sample]) -> tuple[Sample, float]:
    """The utterance least like the mean of the others, and how like it is."""
    vectors = np.stack([sample.vector for sample in samples])
    rest = [np.delete(vectors, place, axis=0).mean(axis=0) for place in range(len(samples))]
    similarities = [likeness(mean, vector) for mean, vector in zip(rest, vectors, strict=True)]
    place = int(np.argmin(similarities))
    return samples[place], similarities[place]
