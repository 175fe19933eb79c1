"""Trying again: why it failed, and how long to wait. Knows neither broker nor server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

Failure = TypeVar("Failure", bound=Exception)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses between attempts: each twice as long as the one before, and never all at the same moment."""

    first_s: float = 0.5
    most_s: float = 30.0

    def pauses_s(self) -> Iterator[float]:
        """Without end; each is cut by up to a half at random."""
        pause_s = self.first_s
        while True:
            yield pause_s * random.uniform(0.5, 1.0)
            pause_s = min(2 * pause_s, self.most_s)


def first(errors: ExceptionGroup[Failure]) -> Failure:
    """What failed first, however deep it lies."""
    error: Failure | ExceptionGroup[Failure] = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
