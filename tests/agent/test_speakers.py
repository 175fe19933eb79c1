from __future__ import annotations

import numpy as np
import pytest

from agent.speakers import MAX_VOICES, Speakers


def near(direction: int, noise: float, seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(0, noise, 32)
    vector[direction] += 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_voices_are_numbered_as_they_appear_and_known_again() -> None:
    speakers = Speakers(0.6)
    order = [0, 1, 0, 2, 1, 1, 0, 2]
    guesses = [speakers.assign(near(voice, 0.05, seed), 1.0) for seed, voice in enumerate(order)]
    assert [guess.number for guess in guesses] == [1, 2, 1, 3, 2, 2, 1, 3]
    assert [guess.similarity == 1 for guess in guesses[:2]] == [True, True]
    assert all(0.6 <= guess.similarity < 1 for guess in guesses[4:])


def test_a_voice_is_the_mean_of_its_utterances_by_length() -> None:
    speakers = Speakers(0.0)
    first, second = np.eye(2, dtype=np.float32)
    speakers.assign(first, 3.0)
    assert speakers.assign(second, 1.0).similarity == pytest.approx(0)
    guess = speakers.assign(first, 1.0)  # the mean is now (3, 1) / 4
    assert guess.similarity == pytest.approx(3 / np.sqrt(10))


def test_what_was_given_is_left_alone() -> None:
    speakers, vector = Speakers(0.5), np.float32([1, 0])
    speakers.assign(vector, 1.0)
    speakers.assign(np.float32([0.8, 0.6]), 1.0)
    np.testing.assert_array_equal(vector, np.float32([1, 0]))


def test_the_number_of_voices_is_bounded() -> None:
    speakers = Speakers(0.9)
    numbers = {speakers.assign(vector, 1.0).number for vector in np.eye(3 * MAX_VOICES, dtype=np.float32)}
    assert numbers == set(range(1, MAX_VOICES + 1))


def test_a_silent_vector_breaks_nothing() -> None:
    speakers = Speakers(0.5)
    for _ in range(2):
        assert np.isfinite(speakers.assign(np.zeros(4, np.float32), 0.0).similarity)


def test_a_guess_is_what_assigning_would_say_and_teaches_nothing() -> None:
    speakers = Speakers(0.6)
    for seed, voice in enumerate([0, 1, 0, 2, 1]):
        vector = near(voice, 0.05, seed)
        guesses = [speakers.guess(vector), speakers.guess(vector)]
        assert guesses == [speakers.assign(vector, 1.0)] * 2
