"""What augmentation promises: the same for the same seed, the stated ratios, rooms that fade as they should."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wavllm_core.train.augment import (
    SAMPLE_RATE,
    Augmentation,
    Waveform,
    augmented,
    faster,
    filtered,
    mix,
    room_response,
    rooms,
    silenced,
    telephone,
    throat,
)

ALL = Augmentation(noise=1.0, room=1.0, codec=1.0, gaps=1.0, speed=(0.9, 1.1), formants=(0.9, 1.1))


def tone(hertz: float, seconds: float = 1.0) -> Waveform:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def power_db(waveform: Waveform) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform)) + 1e-12))


def test_the_same_seed_gives_the_same_sound_and_another_one_another() -> None:
    def once(seed: int) -> Waveform:
        return augmented(tone(440), ALL, np.random.default_rng(seed), lambda samples: tone(1000, 4)[:samples])

    assert np.array_equal(once(1), once(1))
    first, second = once(1), once(2)
    assert len(first) != len(second) or not np.array_equal(first, second)
    assert first.dtype == np.float32 and np.abs(first).max() <= 1.0


def test_noise_is_mixed_at_the_ratio() -> None:
    speech, noise = tone(440), tone(3000) * 0.01
    assert power_db(speech) - power_db(mix(speech, noise, 9.0) - speech) == pytest.approx(9.0, abs=0.01)


def test_twice_as_fast_is_an_octave_higher() -> None:
    quick = faster(tone(500), 2.0)
    assert len(quick) == SAMPLE_RATE // 2
    assert np.abs(np.fft.rfft(quick)).argmax() * SAMPLE_RATE / len(quick) == pytest.approx(1000, abs=3)


def test_another_throat_moves_formants_and_keeps_pitch_and_pace() -> None:
    pulses = np.zeros(SAMPLE_RATE, np.float32)
    pulses[::128] = 0.1  # a voice of 125 Hz
    vowel = np.zeros_like(pulses)
    for i, pulse in enumerate(pulses):  # with a formant at 1500 Hz
        vowel[i] = pulse + 2 * 0.95 * np.cos(2 * np.pi * 1500 / SAMPLE_RATE) * vowel[i - 1] - 0.95**2 * vowel[i - 2]
    assert throat(vowel, 1.0) == pytest.approx(vowel, abs=1e-5)
    for factor in (0.8, 1.2):
        bent = throat(vowel, factor)
        harmonics = np.abs(np.fft.rfft(bent))[::125]
        assert harmonics.argmax() * 125 == pytest.approx(1500 * factor, abs=130)
        between = np.abs(np.fft.rfft(bent))[62::125]
        assert harmonics.max() > 30 * between.max()  # the pitch is where it was
        assert len(bent) == len(vowel)


def test_a_room_starts_with_the_direct_sound_and_fades_by_its_reverberation_time() -> None:
    size, mouth, ears = np.array([6.0, 5.0, 3.0]), np.array([1.0, 1.0, 1.5]), np.array([4.0, 3.0, 1.2])
    response = room_response(size, mouth, ears, reverberation_seconds=0.4)
    assert response[0] > 0.1 and np.square(response).sum() == pytest.approx(1.0, abs=1e-3)
    early, late = (slice(int(t * SAMPLE_RATE), int((t + 0.05) * SAMPLE_RATE)) for t in (0.05, 0.25))
    fade_db = power_db(response[early]) - power_db(response[late])
    assert 20 < fade_db < 40  # 60 dB in 0.4 s are 30 dB in 0.2 s, by Sabine's formula, which is a rough one


def test_a_room_keeps_length_and_loudness_and_rooms_are_made_once() -> None:
    heard = filtered(tone(440), rooms()[0], [])
    assert heard.shape == (SAMPLE_RATE,)
    assert power_db(heard) == pytest.approx(power_db(tone(440)), abs=0.1)
    assert rooms() is rooms()


def test_a_band_that_is_taken_out_is_gone() -> None:
    both = tone(440) + tone(3000)
    spectrum = np.abs(np.fft.rfft(filtered(both, None, [(2000.0, 4000.0)])))
    assert spectrum[3000] < 0.01 * spectrum[440]


def test_gaps_are_silent_and_short() -> None:
    gone = silenced(np.ones(SAMPLE_RATE, np.float32), np.random.default_rng(0)) == 0
    assert 0 < gone.sum() <= 0.12 * SAMPLE_RATE


def test_a_telephone_line_keeps_speech_and_nothing_else() -> None:
    assert power_db(telephone(tone(100))) < power_db(tone(100)) - 20
    heard = telephone(tone(1000))
    assert np.corrcoef(heard, tone(1000))[0, 1] > 0.99
    assert len(np.unique(heard)) <= 256


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="echo"):
        Augmentation(echo=1.0)  # type: ignore[call-arg]
