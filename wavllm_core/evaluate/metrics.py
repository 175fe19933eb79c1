"""Scores, each with what is needed to judge it: counts, confidence intervals, a stated normaliser."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.bleu import BLEU

NORMALISER = "lower case, letters, digits and apostrophes only, single spaces"
RESAMPLES, SEED = 1_000, 20261125
BOOTSTRAP = f"bootstrap over items: {RESAMPLES} draws with replacement, 2.5th to 97.5th percentile, seed {SEED}"
Integers = npt.NDArray[np.int64]


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
        return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def share(outcomes: Iterable[bool]) -> Share:
    """Count what is right."""
    results = list(outcomes)
    return Share(sum(results), len(results))


@dataclass(frozen=True)
class Estimate:
    """A figure over items, and where it would lie for other items of the kind 95 times of 100."""

    value: float
    low: float
    high: float
    items: int


def estimate(items: int, statistic: Callable[[Integers], float]) -> Estimate:
    """A figure with its interval, see BOOTSTRAP.

    statistic: of the items with these indices, (items,), some more than once; NaN where it is not defined
    Raises ValueError for no items.
    """
    if not items:
        raise ValueError("no items, no estimate")
    rng = np.random.default_rng(SEED)
    drawn = np.array([statistic(rng.integers(items, size=items)) for _ in range(RESAMPLES)])
    defined = drawn[np.isfinite(drawn)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (math.nan, math.nan)
    return Estimate(float(statistic(np.arange(items))), float(low), float(high), items)


def normalise(text: str) -> str:
    """See NORMALISER."""
    straight = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").lower()
    return " ".join(re.sub(r"[^\w' ]|_", " ", straight).split())


def word_errors(references: Sequence[str], guesses: Sequence[str]) -> tuple[Integers, Integers]:
    """Wrong, missing and surplus words, and words that should be there, of each pair: (pairs,) both.

    Raises ValueError for an empty reference.
    """
    wanted = [normalise(text) for text in references]
    if not all(wanted):
        raise ValueError("a reference without words has no word error rate")
    aligned = [jiwer.process_words(one, normalise(other)) for one, other in zip(wanted, guesses, strict=True)]
    edits = [pair.substitutions + pair.deletions + pair.insertions for pair in aligned]
    return np.array(edits, np.int64), np.array([len(text.split()) for text in wanted], np.int64)


def word_error_rate(references: Sequence[str], guesses: Sequence[str]) -> float:
    """In percent, over all words together. Raises ValueError for an empty reference."""
    edits, words = word_errors(references, guesses)
    return 100 * float(edits.sum() / words.sum())


def bleu_metric(references: Sequence[str]) -> BLEU:
    """sacrebleu's, with its tokenizer for Chinese where a reference is written in it; knows its signature."""
    chinese = any(re.search(r"[\u4e00-\u9fff]", text) for text in references)
    return BLEU(tokenize="zh" if chinese else "13a")


def bleu_counts(metric: BLEU, references: Sequence[str], guesses: Sequence[str]) -> Integers:
    """What BLEU is made of, (pairs, 10): n-grams that match and that there are, both lengths."""
    pairs = [metric.corpus_score([guess], [[wanted]]) for wanted, guess in zip(references, guesses, strict=True)]
    return np.array([[*pair.counts, *pair.totals, pair.sys_len, pair.ref_len] for pair in pairs], np.int64)


def bleu(counts: Integers) -> float:
    """BLEU from 0 to 100 of the pairs whose counts these are, (pairs, 10)."""
    total = counts.sum(axis=0).tolist()
    return float(BLEU.compute_bleu(total[:4], total[4:8], total[8], total[9], smooth_method="exp").score)


Floats = npt.NDArray[np.floating]


def error_rates(scores: Floats, same: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Shares of misses and of false alarms at each threshold, and the thresholds, from high to low.

    scores: (pairs,) higher for more alike; same: (pairs,) True for one speaker
    Raises ValueError unless both kinds of pair are there.
    """
    if same.all() or not same.any():
        raise ValueError("pairs of the same and of different speakers are needed")
    order = np.argsort(-scores)
    apart = np.append(np.diff(scores[order]) != 0, True)  # a threshold cannot part pairs of one score
    hits = np.append(0, (np.cumsum(same[order]) / same.sum())[apart])
    false_alarms = np.append(0, (np.cumsum(~same[order]) / (~same).sum())[apart])
    return 1 - hits, false_alarms, np.append(np.inf, scores[order][apart])


def equal_error_rate(scores: Floats, same: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """In percent, and the threshold at which misses and false alarms are equally frequent; else as `error_rates`."""
    misses, false_alarms, thresholds = error_rates(scores, same)
    at = int(np.argmin(np.abs(misses - false_alarms)))
    return 50 * float(misses[at] + false_alarms[at]), float(thresholds[at])
