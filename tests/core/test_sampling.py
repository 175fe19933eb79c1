"""Which clips make up a step: the same after a restart, alike in length, within the limits."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from wavllm_core.train import synthesis
from wavllm_core.train.corpus import Clip, Corpus
from wavllm_core.train.sampling import SPARE_SECONDS, Steps, bucketed, prefetched

SECONDS = [0.3, 0.5, 1.0, 2.0, 4.0, 9.0]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(synthesis, "phonemes", lambda texts: [[] for _ in texts])
    rng = np.random.default_rng(0)
    clips = [Clip("", "long" if seconds > 3 else "short", "train") for seconds in SECONDS]
    sounds = [(rng.standard_normal(int(seconds * 16_000)) * 3000).astype(np.int16) for seconds in SECONDS]
    Corpus.write(tmp_path, zip(clips, sounds, strict=True))
    return Corpus(tmp_path)


def groups(corpus: Corpus, **weights: float) -> list[list[int]]:
    return list(islice(bucketed(corpus, weights, 6.0, random.Random(1), max_seconds=5.0), 300))


def test_batches_are_the_same_for_the_same_seed(corpus: Corpus) -> None:
    assert groups(corpus, short=1.0, long=1.0) == groups(corpus, short=1.0, long=1.0)


def test_batches_keep_to_the_seconds_and_to_clips_of_like_length(corpus: Corpus) -> None:
    for batch in groups(corpus, short=1.0, long=1.0):
        longest = max(corpus.seconds(i) for i in batch)
        assert len(batch) == 1 or len(batch) * (longest + SPARE_SECONDS) <= 6.0
        assert longest <= 5.0  # the clip of nine seconds is left out
        assert max(batch) - min(batch) <= 1  # neighbours in length, here in number


def test_a_source_without_weight_is_not_drawn(corpus: Corpus) -> None:
    assert {i for batch in groups(corpus, long=1.0) for i in batch} == {4}


def test_a_run_that_goes_on_sees_what_it_would_have_seen(corpus: Corpus) -> None:
    def seen(first: int, count: int) -> list[tuple[int, list[int]]]:
        drawn = bucketed(corpus, {"short": 1.0}, 6.0, random.Random(1), 5.0)
        return list(islice(prefetched(Steps(drawn, first, lambda step, indices: (step, indices))), count))

    assert seen(0, 7)[4:] == seen(4, 3)


def test_a_failure_of_the_other_process_arrives_here() -> None:
    def fail(step: int, indices: list[int]) -> None:
        raise OverflowError(f"step {step}")

    with pytest.raises(OverflowError, match="step 0"):
        next(prefetched(Steps(iter([[1]]), 0, fail)))
