"""Where the voice changes inside one utterance: vectors of windows side by side are compared.

Knows the engine by its interface only, and no conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.hearing.listener import to_waveform
from agent.voices.listening import hear_waveform
from agent.voices.people import likeness
from wavllm_core.engine.api import Context
from wavllm_core.voices import VoiceScale

SAMPLE_RATE: Final = 16_000
WINDOW_SAMPLES: Final = SAMPLE_RATE * 3 // 2  # of voice to tell who it is
HOP_SAMPLES: Final = SAMPLE_RATE // 2
SNAP_SAMPLES: Final = SAMPLE_RATE * 2 // 5  # either way, to the quietest moment: people seldom change within a word
FRAME_SAMPLES: Final = SAMPLE_RATE // 50
WINDOW_HOPS: Final = WINDOW_SAMPLES // HOP_SAMPLES
MIN_PART_WINDOWS: Final = 2  # of a part, so that one odd window does not decide
MIN_SPLIT_SAMPLES: Final = 2 * WINDOW_SAMPLES  # shorter utterances are of one voice

Waveform = npt.NDArray[np.float32]


async def hear_changes(context: Context, pcm: Sequence[bytes], scale: VoiceScale) -> list[int]:
    """Samples of an utterance at which another voice goes on. Raises CoreError when a window cannot be heard."""
    waveform = to_waveform(b"".join(pcm))
    heard = await asyncio.gather(*(hear_waveform(context, window) for window in windows(waveform)))
    return find_changes(waveform, [one.speaker_vector for one in heard], scale.same_similarity)


async def hear_parts(context: Context, waveform: Waveform) -> float:
    """How alike the two parts of a recording are that are least alike, see `parts_alike`. Raises CoreError likewise."""
    heard = await asyncio.gather(*(hear_waveform(context, window) for window in windows(waveform)))
    return parts_alike([one.speaker_vector for one in heard])


def parts_alike(vectors: Sequence[npt.NDArray[np.float32]]) -> float:
    """The smallest cosine of the means before and after any moment; 1 when there is too little to compare.

    vectors: of `windows`, (dim,) each; two at least on either side, none with audio of both
    """
    found = [1.0]
    for place in range(MIN_PART_WINDOWS, len(vectors)):
        before, after = vectors[:place], vectors[place - 1 + WINDOW_HOPS :]
        if len(after) >= MIN_PART_WINDOWS:
            found.append(likeness(np.mean(before, axis=0), np.mean(after, axis=0)))
    return min(found)


def windows(waveform: Waveform) -> list[Waveform]:
    """The stretches whose voices are to be compared, one every hop; none when it is too short to be split."""
    if len(waveform) < MIN_SPLIT_SAMPLES:
        return []
    starts = range(0, len(waveform) - WINDOW_SAMPLES + 1, HOP_SAMPLES)
    return [waveform[start : start + WINDOW_SAMPLES] for start in starts]


def find_changes(waveform: Waveform, vectors: Sequence[npt.NDArray[np.float32]], limit: float) -> list[int]:
    """Samples at which another voice goes on.

    vectors: of `windows`, (dim,) each, length 1
    limit: windows side by side that are less alike are of two voices
    """
    similarities = [float(one @ other) for one, other in zip(vectors, vectors[WINDOW_HOPS:], strict=False)]
    changes: list[int] = []
    for place in sorted(range(len(similarities)), key=similarities.__getitem__):
        at = (place + WINDOW_HOPS) * HOP_SAMPLES
        if similarities[place] < limit and all(abs(at - other) >= WINDOW_SAMPLES for other in changes):
            changes.append(at)
    return sorted(_quietest(waveform, at) for at in changes)


def _quietest(waveform: Waveform, at: int) -> int:
    """The quietest moment around a change; 100 ms decide, so that no stop of a consonant wins."""
    start = max(0, at - SNAP_SAMPLES)
    around = waveform[start : at + SNAP_SAMPLES]
    energy = np.square(around[: len(around) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)).sum(axis=1)
    smooth = np.convolve(energy, np.ones(5), mode="valid")
    return start + (int(np.argmin(smooth)) + 2) * FRAME_SAMPLES + FRAME_SAMPLES // 2
