"""Log-mel frames against a reference built with plain numpy, and their promise not to look ahead."""

from __future__ import annotations

import numpy as np
import torch

from wavllm_core.features import DYNAMIC_RANGE, LOG_MEL_MAX, WINDOW_SAMPLES, LogMel, slaney_mel_filters


def test_a_frame_is_the_windowed_power_spectrum_of_the_samples_before_its_end() -> None:
    waveform = torch.randn(1, 1600, generator=torch.Generator().manual_seed(0)) * 0.1
    log_mel = LogMel(80, 16_000, 160)(waveform)[0].numpy()
    padded = np.concatenate([np.zeros(WINDOW_SAMPLES - 160), waveform[0].numpy()])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)
    filters = slaney_mel_filters(80, 16_000).numpy()
    for frame in (0, 4, 9):
        power = np.abs(np.fft.rfft(padded[160 * frame : 160 * frame + WINDOW_SAMPLES] * window)) ** 2
        expected = (np.log10(np.maximum(power @ filters, 1e-10)) + 4) / 4
        floor = (LOG_MEL_MAX - DYNAMIC_RANGE + 4) / 4
        np.testing.assert_allclose(log_mel[:, frame], np.maximum(expected, floor), atol=2e-4)


def test_filters_are_whispers() -> None:
    """Area 1 each, and the first and last peaks where Slaney's scale puts them."""
    filters = slaney_mel_filters(80, 16_000)
    assert filters.shape == (201, 80)
    hertz = torch.linspace(0, 8000, 201)
    peaks = hertz[filters.argmax(0)]
    assert torch.all(peaks[1:] >= peaks[:-1])
    assert 0 < peaks[0] <= 80 and 7600 <= peaks[-1] < 8000


def test_silence_stays_at_the_floor() -> None:
    log_mel = LogMel(80, 16_000, 160)(torch.zeros(1, 3200))
    assert torch.all(log_mel == (LOG_MEL_MAX - DYNAMIC_RANGE + 4) / 4)
