from __future__ import annotations

import numpy as np
import pytest

from agent.voices.speakers import MAX_VOICES, Speakers
from agent.voices.store import Person
from wavllm_core.voices import VoiceScale


def scale(same: float) -> VoiceScale:
    return VoiceScale("w", same, slope=8.0)


def near(direction: int, noise: float, seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(0, noise, 32)
    vector[direction] += 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_voices_are_numbered_as_they_appear_and_known_again() -> None:
    speakers = Speakers(scale(0.6))
    order = [0, 1, 0, 2, 1, 1, 0, 2]
    guesses = [speakers.assign(near(voice, 0.05, seed), 1.0) for seed, voice in enumerate(order)]
    assert [guess.number for guess in guesses] == [1, 2, 1, 3, 2, 2, 1, 3]
    assert [guess.similarity == 1 for guess in guesses[:2]] == [True, True]
    assert all(0.6 <= guess.similarity < 1 for guess in guesses[4:])


def test_a_voice_is_the_mean_of_its_utterances_by_length() -> None:
    speakers = Speakers(scale(0.0))
    first, second = np.eye(2, dtype=np.float32)
    speakers.assign(first, 3.0)
    assert speakers.assign(second, 1.0).similarity == pytest.approx(0)
    guess = speakers.assign(first, 1.0)  # the mean is now (3, 1) / 4
    assert guess.similarity == pytest.approx(3 / np.sqrt(10))


def test_what_was_given_is_left_alone() -> None:
    speakers, vector = Speakers(scale(0.5)), np.float32([1, 0])
    speakers.assign(vector, 1.0)
    speakers.assign(np.float32([0.8, 0.6]), 1.0)
    np.testing.assert_array_equal(vector, np.float32([1, 0]))


def test_the_number_of_voices_is_bounded() -> None:
    speakers = Speakers(scale(0.9))
    numbers = {speakers.assign(vector, 1.0).number for vector in np.eye(3 * MAX_VOICES, dtype=np.float32)}
    assert numbers == set(range(1, MAX_VOICES + 1))


def test_an_enrolled_person_is_known_after_any_number_of_strangers() -> None:
    voices = np.eye(3 * MAX_VOICES, dtype=np.float32)
    speakers = Speakers(scale(0.6), [Person("Anna", np.stack([voices[-1]] * 3), "w", id="a")])
    for stranger in voices[: 2 * MAX_VOICES]:
        speakers.assign(stranger, 1.0)
    assert speakers.enrolled_name(voices[-1]) == "Anna"
    told = [speakers.assign(voices[place], 1.0) for place in (-1, -2, -1)]
    assert [(guess.label, guess.person_id) for guess in told] == [("Anna", "a"), ("speaker 1", None), ("Anna", "a")]
    assert len(speakers.voices) == MAX_VOICES + 1


def test_a_silent_vector_breaks_nothing() -> None:
    speakers = Speakers(scale(0.5))
    for _ in range(2):
        assert np.isfinite(speakers.assign(np.zeros(4, np.float32), 0.0).similarity)


def test_a_guess_is_what_assigning_would_say_and_teaches_nothing() -> None:
    speakers = Speakers(scale(0.6))
    for seed, voice in enumerate([0, 1, 0, 2, 1]):
        vector = near(voice, 0.05, seed)
        guesses = [speakers.guess(vector), speakers.guess(vector)]
        assert guesses == [speakers.assign(vector, 1.0)] * 2


def test_an_enrolled_person_has_a_name_from_the_start() -> None:
    anna, ben = (
        Person(name, np.stack([near(voice, 0.05, 90 + voice)] * 3), "w") for voice, name in ((0, "Anna"), (1, "Ben"))
    )
    speakers = Speakers(scale(0.6), [anna, ben])
    told = [speakers.assign(near(voice, 0.05, seed), 1.0) for seed, voice in enumerate([2, 1, 0, 2, 1])]
    assert [guess.label for guess in told] == ["speaker 1", "Ben", "Anna", "speaker 1", "Ben"]
    assert [guess.number for guess in told] == [1, 2, 3, 1, 2]
    assert told[1].person_id == ben.id and told[0].person_id is None
    assert all(guess.confidence > 0.9 for guess in told)
    assert speakers.names == {2: "Ben", 3: "Anna"}


def test_a_person_is_known_by_what_was_enrolled_or_said_here_whichever_is_nearer() -> None:
    old, today, between = np.float32([[1, 0, 0]]), np.float32([0, 1, 0]), np.float32([0.8, 0.6, 0])
    speakers = Speakers(scale(0.7), [Person("Anna", old, "w")])
    for vector in (between, today, today, today):  # hoarse, and more so
        speakers.assign(vector, 20.0)
    assert speakers.guess(np.float32([1, 0, 0])).name == "Anna"


def test_an_unknown_voice_can_be_named() -> None:
    speakers = Speakers(scale(0.6))
    speakers.assign(near(0, 0.05, 1), 1.0)
    speakers.name(1, "Anna")
    assert speakers.guess(near(0, 0.05, 2)).label == "Anna" and speakers.names == {1: "Anna"}
    with pytest.raises(ValueError, match="no voice 2"):
        speakers.name(2, "Ben")


def test_too_little_speech_is_nobody_new_but_may_be_somebody_known() -> None:
    ben = Person("Ben", near(1, 0.05, 90)[None], "w")
    speakers = Speakers(scale(0.6), [ben])
    heard = [(0, 0.5), (2, 1.9), (2, 2.0), (1, 0.5)]
    numbers = [
        speakers.assign(near(voice, 0.05, seed), s, new_from_s=2.0).number for seed, (voice, s) in enumerate(heard)
    ]
    assert numbers == [1, 1, 2, 3] and speakers.names == {3: "Ben"}


def test_a_voice_that_is_taken_for_an_enrolled_one_for_want_of_speech_is_not_that_person() -> None:
    anna, other = np.eye(4, dtype=np.float32)[:2]
    speakers = Speakers(scale(0.6), [Person("Anna", np.stack([anna] * 3), "w", id="a")])
    assert speakers.assign(anna, 3.0).person_id == "a"
    assert speakers.enrolled_name(anna) == "Anna"
    guess = speakers.assign(other, 0.5, new_from_s=2.0)
    assert (guess.number, guess.person_id) == (1, None)
    assert speakers.enrolled_name(other) is None
    speakers.name(1, "Annie")
    assert speakers.enrolled_name(anna) == "Anna", "whatever it is called here"
