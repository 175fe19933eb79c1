"""Pairs of clips of one speaker and of two, scored by how alike their speaker vectors are."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import numpy.typing as npt

from wavllm_core.evaluate.metrics import Floats, equal_error_rate

Voices = list[tuple[str, npt.NDArray[np.float32]]]  # speaker, vector
SEED = 20261122
PAIRS_PER_KIND = 20_000


def has_pairs(voices: Voices) -> bool:
    """Whether two speakers are there with more than one clip each."""
    return sum(count > 1 for count in Counter(speaker for speaker, _ in voices).values()) > 1


def pairs(voices: Voices, others: Voices | None = None) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Random pairs, as many of one speaker as of two: how alike they are, and whether it is one speaker, (pairs,).

    others: the same clips in the same order under other circumstances, of which the second of each pair is taken
    """
    rng = random.Random(SEED)
    seconds = others or voices
    by_speaker: dict[str, list[int]] = {}
    for i, (speaker, _) in enumerate(voices):
        by_speaker.setdefault(speaker, []).append(i)
    names = [name for name, clips in by_speaker.items() if len(clips) > 1]
    scores, same = [], []
    for _ in range(PAIRS_PER_KIND):
        one, other = rng.sample(by_speaker[rng.choice(names)], 2)
        a, b = (rng.choice(by_speaker[name]) for name in rng.sample(names, 2))
        scores += [float(voices[one][1] @ seconds[other][1]), float(voices[a][1] @ seconds[b][1])]
        same += [True, False]
    return np.array(scores), np.array(same)


def voice_error(voices: Voices, others: Voices | None = None) -> tuple[float, float]:
    """EER in percent and its threshold over `pairs`."""
    return equal_error_rate(*pairs(voices, others))
