"""Which clips make up which step: drawn by source, alike in length, the same for the same seed and step.

Knows indices and lengths of clips, not their samples; batches are made by a worker process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from torch.utils.data import DataLoader, IterableDataset

from wavllm_core.train.corpus import Corpus

T = TypeVar("T")
POOL_CLIPS = 2048  # drawn at a time and sorted by length
SPARE_SECONDS = 0.5  # of silence around a clip, when a batch is filled up
AHEAD = 6  # batches that wait for the model


def bucketed(
    corpus: Corpus,
    weights: Mapping[str, float],
    batch_seconds: float,
    rng: random.Random,
    max_seconds: float,
    crop_seconds: float | None = None,
    max_rows: int = 64,
) -> Iterator[list[int]]:
    """Clips of like length, endlessly; `weights` is how often each source is drawn per clip it has.

    Longer clips than `max_seconds` are left out; those longer than `crop_seconds` count as so long.
    """
    pool = [
        (i, weights[corpus.clips[i].source])
        for i in corpus.where("train", *weights)
        if 0.1 < corpus.seconds(i) <= max_seconds
    ]
    indices, shares = zip(*pool, strict=True)
    while True:
        drawn = sorted(rng.choices(indices, shares, k=POOL_CLIPS), key=corpus.seconds)
        batches: list[list[int]] = [[]]
        for index in drawn:
            rows = len(batches[-1]) + 1
            seconds = min(corpus.seconds(index), crop_seconds or max_seconds) + SPARE_SECONDS
            if batches[-1] and (rows > max_rows or rows * seconds > batch_seconds):
                batches.append([])
            batches[-1].append(index)
        rng.shuffle(batches)
        yield from batches


class Steps(IterableDataset[T]):
    """What `make` makes of each step and its clips, from a step on, endlessly."""

    def __init__(self, groups: Iterator[list[int]], first: int, make: Callable[[int, list[int]], T]) -> None:
        self.groups, self.first, self.make = groups, first, make

    def __iter__(self) -> Iterator[T]:
        for step, indices in enumerate(self.groups):
            if step >= self.first:
                yield self.make(step, indices)


def prefetched(steps: Steps[T]) -> Iterator[T]:
    """The same batches, made by another process while the model is busy with earlier ones."""
    return iter(
        DataLoader(steps, batch_size=None, num_workers=1, prefetch_factor=AHEAD, multiprocessing_context="fork")
    )
