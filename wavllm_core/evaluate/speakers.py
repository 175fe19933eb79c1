"""Questions about voices: is it one speaker who is heard, and how does the speaker feel. By prompt, not by vectors."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from wavllm_core.evaluate.metrics import Share, share
from wavllm_core.tasks import EMOTIONS, read_emotion, read_yes_no
from wavllm_core.train.corpus import SAMPLE_RATE, Pcm
from wavllm_core.train.speakers import joined

ONE_OR_TWO, FEELING = "one speaker or two, by prompt", "emotion of eight, by prompt"
PAUSE_SAMPLES = SAMPLE_RATE // 2
EVERY = 4  # one of so many clips of a person is joined with others

Pairs = Sequence[tuple[bool, str]]  # whether one speaker is heard, and what was said to the question
Emotions = Sequence[tuple[str, str]]  # likewise of an emotion's label


@dataclass
class Joiner:
    """Joins clips as they come by with earlier ones."""

    rng: random.Random
    earlier: dict[str, list[Pcm]] = field(default_factory=dict)  # by speaker

    def pairs(self, speaker: str, pcm: Pcm) -> list[tuple[bool, Pcm]]:
        """Every EVERYth clip of a person after one of the same, and after one of another person."""
        own = self.earlier.setdefault(speaker, [])
        own.append(pcm)
        others = [name for name in self.earlier if name != speaker]
        if len(own) % EVERY or not others:
            return []
        firsts = {True: self.rng.choice(own[:-1]), False: self.rng.choice(self.earlier[self.rng.choice(others)])}
        return [(same, joined(first, pcm, PAUSE_SAMPLES)) for same, first in firsts.items()]


def figures(pairs: Pairs, emotions: Emotions) -> dict[str, Share]:
    """What was answered right; an answer that says neither or both is wrong."""
    found = {
        ONE_OR_TWO: share(read_yes_no(said) == same for same, said in pairs),
        FEELING: share(read_emotion(said) == label for label, said in emotions),
    }
    return {name: value for name, value in found.items() if value.total}


def confusions(emotions: Emotions) -> dict[str, Counter[str]]:
    """Of each emotion that was acted, how often which one was named; `none` where none was."""
    table: dict[str, Counter[str]] = {label: Counter() for label in EMOTIONS if label in {one for one, _ in emotions}}
    for label, said in emotions:
        table[label][read_emotion(said) or "none"] += 1
    return table
