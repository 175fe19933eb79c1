"""New orders out of recorded ones: words are found by CTC alignment, cut where it is quiet, and joined anew.

A few hundred recorded orders hold every phrase of the grammar but few of its combinations; this makes the others
heard in real voices. Knows no files; `prepare.splice_orders` brings clips and keeps what comes out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavllm_core.train.corpus import SAMPLE_RATE, Pcm
from wavllm_core.train.orders import AMOUNTS, DRINKS, MILKS, OPENINGS, ROASTS, SHOTS, SIZES, SUGARS, Order

STEP_SAMPLES = SAMPLE_RATE // 200  # of the search for a quiet place
FADE_SAMPLES = SAMPLE_RATE // 200
CANDIDATES = 6  # pieces of which the one with the likest voice is taken
LOUDNESS = 2000.0  # every piece comes from a clip of this root mean square
HEAD, SIZE, ROAST, SHOT, DRINK = "head", "size", "roast", "numberOfShots", "coffeeDrink"
MILK, SUGAR = "milkAmount", "sugarAmount"
_SLOTS = {SIZE: SIZES, ROAST: ROASTS, SHOT: SHOTS, DRINK: DRINKS}
_EXTRAS = {MILK: MILKS, SUGAR: SUGARS}


@dataclass(frozen=True)
class Phrase:
    """A stretch of an order's words that fills one slot, or its opening."""

    kind: str  # the name of its slot, or "head"
    words: str
    joint: str = ""  # "with" or "and" before milk or sugar

    @property
    def spoken(self) -> str:
        """With the joint."""
        return f"{self.joint} {self.words}".strip()


@dataclass(frozen=True)
class Piece:
    """A recorded phrase."""

    phrase: Phrase
    pcm: Pcm
    voice: npt.NDArray[np.float32]  # a speaker vector of the clip


@dataclass
class Pieces:
    """All recorded phrases, by kind and joint."""

    found: dict[tuple[str, str], list[Piece]] = field(default_factory=dict)

    def add(self, pcm: Pcm, span: tuple[int, int], places: list[tuple[Phrase, int, int]], voice: Tensor) -> None:
        """Cut a clip, whose phrases' first and last sounds are at `places`, in samples; `span` is its speech."""
        level = np.sqrt(np.mean(np.square(pcm[slice(*span)].astype(np.float32)))) + 1.0
        louder = np.clip(pcm.astype(np.float32) * (LOUDNESS / level), -32768, 32767).astype(np.int16)
        inner = [quietest(pcm, a[2], b[1]) for a, b in pairwise(places)]
        cuts = [span[0], *inner, span[1]]
        for (phrase, _, _), (start, end) in zip(places, pairwise(cuts), strict=True):
            piece = Piece(phrase, louder[start:end], voice.numpy())
            self.found.setdefault((phrase.kind, phrase.joint), []).append(piece)

    def order(self, rng: random.Random) -> tuple[Order, str, Pcm]:
        """A random order, its words and its sound."""
        kinds = [kind for kind in (SIZE, ROAST, SHOT) if rng.random() < 0.5]
        rng.shuffle(kinds)
        extras = [kind for kind in (MILK, SUGAR) if rng.random() < 0.5]
        rng.shuffle(extras)
        wanted = [(HEAD, ""), *((kind, "") for kind in kinds), (DRINK, "")]
        wanted += list(zip(extras, ("with", "and"), strict=False))
        pieces = [rng.choice(self.found[wanted[0]])]
        for kind in wanted[1:]:
            likely = rng.choices(self.found[kind], k=CANDIDATES)
            pieces.append(max(likely, key=lambda piece: float(piece.voice @ pieces[0].voice)))
        phrases = [piece.phrase for piece in pieces]
        slots = {phrase.kind: phrase.words for phrase in phrases if phrase.kind != HEAD}
        return Order(**slots), " ".join(phrase.spoken for phrase in phrases), joined([piece.pcm for piece in pieces])


def phrases_of(words: str) -> list[Phrase]:
    """An order's words in phrases. Raises ValueError for words that the grammar does not have."""
    heads = {HEAD: [f"{opening} {article}" for opening in OPENINGS for article in ("a", "an")]}
    extras = {kind: [amount + name for amount in AMOUNTS for name in names] for kind, names in _EXTRAS.items()}
    found: list[Phrase] = []
    rest = f"{words} "
    while rest:
        joint = next((word for word in ("with", "and") if rest.startswith(f"{word} ")), "")
        rest = rest.removeprefix(f"{joint} ") if joint else rest
        table = heads if not found else extras if joint else _SLOTS
        fitting = [(kind, p) for kind, names in table.items() for p in names if rest.startswith(f"{p} ")]
        if not fitting:
            raise ValueError(f"{words!r}: {rest.strip()!r} is no phrase of an order")
        kind, phrase = max(fitting, key=lambda pair: len(pair[1]))
        found.append(Phrase(kind, phrase, joint))
        rest = rest[len(phrase) + 1 :]
    return found


def aligned(log_probs: Tensor, symbols: Sequence[int]) -> list[int]:
    """The frame in which each symbol is likeliest to be heard, in order, by CTC (Viterbi).

    log_probs: (frames, symbols), 0 is the blank. Raises ValueError for fewer frames than symbols need.
    """
    states = [0]
    for symbol in symbols:
        states += [symbol, 0]
    emitted = log_probs[:, states]
    frames, count = emitted.shape
    skips = torch.tensor([i % 2 == 1 and i > 1 and states[i] != states[i - 2] for i in range(count)])
    low = torch.full((2,), -torch.inf)
    score = torch.full((count,), -torch.inf)
    score[:2] = emitted[0, :2]
    came_from = []
    for frame in emitted[1:]:
        before = torch.cat([low, score])
        options = torch.stack([score, before[1:-1], before[:-2].masked_fill(~skips, -torch.inf)])
        best, back = options.max(0)
        came_from.append(back)
        score = best + frame
    state = count - 1 if score[-1] > score[-2] else count - 2
    if not torch.isfinite(score[state]):
        raise ValueError(f"{frames} frames are too few for {len(symbols)} symbols")
    path = [state]
    for back in reversed(came_from):
        state -= int(back[state])
        path.append(state)
    path.reverse()
    times: dict[int, list[int]] = {}
    for frame_index, at in enumerate(path):
        times.setdefault(at, []).append(frame_index)
    return [max(times[at], key=lambda frame_index: float(emitted[frame_index, at])) for at in range(1, count, 2)]


def quietest(pcm: Pcm, start: int, end: int) -> int:
    """Where between two samples the least is to be heard."""
    steps = max(1, (end - start) // STEP_SAMPLES)
    places = [start + i * STEP_SAMPLES for i in range(steps)]
    power = [float(np.mean(np.square(pcm[at : at + 2 * STEP_SAMPLES].astype(np.float32)))) for at in places]
    return places[int(np.argmin(power))] + STEP_SAMPLES


def joined(parts: Sequence[Pcm]) -> Pcm:
    """One after the other, each faded into the next."""
    whole = parts[0].astype(np.float32)
    for part in parts[1:]:
        fade = min(FADE_SAMPLES, len(part), len(whole))
        rise = np.linspace(0, 1, fade, dtype=np.float32)
        overlap = whole[-fade:] * (1 - rise) + part[:fade] * rise
        whole = np.concatenate([whole[:-fade], overlap, part[fade:].astype(np.float32)])
    return whole.astype(np.int16)
