"""Scores, each with what is needed to judge it: counts, confidence intervals, a stated normaliser."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import numpy.typing as npt

NORMALISER = "lower case, letters, digits and apostrophes only, single spaces"


@dataclass(frozen=True)
class Share:
    """How many of how many were right."""

    right: int
    total: int

    @property
    def percent(self) -> float:
        """100 * right / total; NaN for nothing."""
        return 100 * self.right / self.total if self.total else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in percent."""
        if not self.total:
            return math.nan, math.nan
        z, n, p = 1.96, self.total, self.right / self.total
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return 100 * (centre - half), 100 * (centre + half)


def normalise(text: str) -> str:
    """See NORMALISER."""
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split())


def word_error_rate(references: Sequence[str], guesses: Sequence[str]) -> float:
    """In percent, over all words together. Raises ValueError for an empty reference."""
    wanted = [normalise(text) for text in references]
    if not all(wanted):
        raise ValueError("a reference without words has no word error rate")
    return 100 * float(jiwer.wer(wanted, [normalise(text) for text in guesses]))


def equal_error_rate(scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """In percent, and the threshold at which misses and false alarms are equally frequent.

    scores: (pairs,) higher for more alike; same: (pairs,) True for one speaker
    Raises ValueError unless both kinds of pair are there.
    """
    if same.all() or not same.any():
        raise ValueError("pairs of the same and of different speakers are needed")
    order = np.argsort(-scores)
    hits = np.cumsum(same[order]) / same.sum()
    false_alarms = np.cumsum(~same[order]) / (~same).sum()
    at = int(np.argmin(np.abs((1 - hits) - false_alarms)))
    return 50 * float(1 - hits[at] + false_alarms[at]), float(scores[order][at])
