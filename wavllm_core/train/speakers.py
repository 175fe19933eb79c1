"""What can be asked about voices, in the prompts of the publication: is it one speaker, and how do they feel.

Knows waveforms and names, no corpus; the same questions train the model and, on other clips, score it.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wavllm_core.errors import InputError
from wavllm_core.tasks import EMOTIONS, TASKS

ONE_SPEAKER, EMOTION = TASKS["sv"].prompt, TASKS["er"].prompt
PAUSE_SECONDS = (0.2, 0.8)  # between two clips that are joined
MIN_PEOPLE = 8  # of one circumstance: fewer would be learned by heart
Sound = TypeVar("Sound", npt.NDArray[np.float32], npt.NDArray[np.int16])


def speakers_answer(same: bool) -> str:
    """Whether one speaker alone is heard, in words."""
    return f"{'Yes, there is only one speaker' if same else 'No, there are two speakers'} in the audio clip."


def emotion_answer(label: str) -> str:
    """An emotion in words. Raises InputError for one that has no name in `tasks.EMOTIONS`."""
    if label not in EMOTIONS:
        raise InputError(f"label: {label!r} is none of {', '.join(EMOTIONS)}")
    return f"The emotion of the speaker is {label}."


def others(answer: str) -> list[str]:
    """What else could have been answered to the same question; nothing if it is none of the two."""
    for answers in ([*map(speakers_answer, (True, False))], [*map(emotion_answer, EMOTIONS)]):
        if answer in answers:
            return [other for other in answers if other != answer]
    return []


def joined(first: Sound, second: Sound, pause_samples: int) -> Sound:
    """One clip after the other, silence between them."""
    return np.concatenate([first, np.zeros(pause_samples, first.dtype), second])


class Partners:
    """Who can be heard beside whom: clips of people of one circumstance, such as a split and a source."""

    def __init__(self, clips: Iterable[tuple[int, Hashable, str]]) -> None:
        """clips: index, circumstance, and speaker, of those whose speaker is known"""
        self.people: dict[Hashable, dict[str, list[int]]] = {}
        self.of: dict[int, tuple[Hashable, str]] = {}
        for index, circumstance, speaker in clips:
            self.people.setdefault(circumstance, {}).setdefault(speaker, []).append(index)
            self.of[index] = circumstance, speaker

    def usable(self, index: int) -> bool:
        """Whether a clip has partners of both kinds."""
        if index not in self.of:
            return False
        circumstance, speaker = self.of[index]
        return len(self.people[circumstance]) >= MIN_PEOPLE and len(self.people[circumstance][speaker]) > 1

    def draw(self, index: int, same: bool, rng: random.Random) -> int:
        """Another clip, of the same person or of another one of the same circumstance."""
        circumstance, speaker = self.of[index]
        people = self.people[circumstance]
        if not same:
            return rng.choice(people[rng.choice([name for name in people if name != speaker])])
        return rng.choice([other for other in people[speaker] if other != index])
