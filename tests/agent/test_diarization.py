from __future__ import annotations

import numpy as np
import pytest

from agent.voices.diarization import HOP_SAMPLES, MIN_SPLIT_SAMPLES, WINDOW_SAMPLES, find_changes, parts_alike, windows

SECOND = 16_000


def conversation(*seconds: float) -> tuple[np.ndarray, list[int]]:
    """Voices in turn, each of its own loudness, with 200 ms of quiet between; and where that is."""
    rng, parts, changes = np.random.default_rng(0), [], []
    for number, length in enumerate(seconds):
        if number:
            parts.append(rng.normal(0, 0.001, SECOND // 5))
            changes.append(sum(map(len, parts)) - SECOND // 10)
        parts.append(rng.normal(0, 0.1 + 0.1 * (number % 2), int(length * SECOND)))
    return np.concatenate(parts).astype(np.float32), changes


def vectors(waveform: np.ndarray, changes: list[int]) -> list[np.ndarray]:
    """Of each window the mean of the voices in it, by time, as statistics pooling gives."""
    voices = np.eye(4, dtype=np.float32)
    bounds = [0, *changes, len(waveform)]
    found = []
    for start in range(0, len(waveform) - WINDOW_SAMPLES + 1, HOP_SAMPLES):
        end, vector = start + WINDOW_SAMPLES, np.zeros(4, np.float32)
        for number in range(len(bounds) - 1):
            vector += max(0, min(end, bounds[number + 1]) - max(start, bounds[number])) * voices[number % 2]
        found.append(vector / np.linalg.norm(vector))
    return found


@pytest.mark.parametrize("seconds", [(3.0, 3.0), (2.1, 4.0, 2.4), (5.3, 2.0, 2.0, 6.1)])
def test_changes_are_found_at_the_quiet_between_voices(seconds: tuple[float, ...]) -> None:
    waveform, changes = conversation(*seconds)
    assert len(windows(waveform)) == len(vectors(waveform, changes))
    found = find_changes(waveform, vectors(waveform, changes), limit=0.5)
    assert len(found) == len(changes)
    assert all(abs(a - b) <= SECOND // 10 for a, b in zip(found, changes, strict=True))


def test_one_voice_is_left_whole() -> None:
    waveform, _ = conversation(9.0)
    assert find_changes(waveform, vectors(waveform, []), limit=0.5) == []


def test_what_is_too_short_for_two_voices_has_no_windows() -> None:
    assert windows(np.zeros(MIN_SPLIT_SAMPLES - 1, np.float32)) == []
    assert find_changes(np.zeros(100, np.float32), [], limit=0.5) == []


def test_the_parts_of_a_recording_are_as_alike_as_their_voices() -> None:
    one, other = np.eye(4, dtype=np.float32)[:2]
    assert parts_alike([one] * 9) == pytest.approx(1)
    assert parts_alike([one] * 5 + [other] * 4) == pytest.approx(0)
    assert parts_alike([one] * 4 + [other] + [one] * 4) > 0.8, "an odd window is no other voice"
    assert parts_alike([one, one, other]) == parts_alike([]) == 1, "too little to compare"
