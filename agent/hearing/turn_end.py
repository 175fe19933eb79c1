"""How long a pause has to last to end a turn, by how finished sounded what was said before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.protocol.turn_detection import Eagerness


@dataclass(frozen=True, slots=True)
class Patience:
    """Milliseconds of silence that end a turn."""

    finished_ms: int  # what was said is a whole
    perhaps_ms: int  # it may be
    most_ms: int  # it is not, or nobody can tell yet


FINISHED, PERHAPS = 0.6, 0.35  # scores from which on
PATIENCE: Final[Mapping[Eagerness, Patience]] = {
    "low": Patience(500, 1_200, 3_000),
    "medium": Patience(300, 700, 2_000),
    "high": Patience(200, 400, 1_200),
    "auto": Patience(300, 700, 2_000),
}
FIXED_MS: Final = 500  # where there is no score to be had


def silence_ms(eagerness: Eagerness, score: float) -> int:
    """The pause after which a turn with this score, 0 to 1, is over."""
    patience = PATIENCE[eagerness]
    if score >= FINISHED:
        return patience.finished_ms
    return patience.perhaps_ms if score >= PERHAPS else patience.most_ms
