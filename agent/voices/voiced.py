"""How much of a recording is a person's voice. Knows no model, and not who it is.

Voiced speech is periodic, between 60 and 400 Hz, and its pitch glides. Noise is not periodic; the pitch of music
stays where it is for as long as a note lasts. What barks, crows and cries glides like a voice: only a detector that
was trained on speech tells it apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

SAMPLE_RATE: Final = 16_000
HOP_SAMPLES: Final = SAMPLE_RATE // 50
WINDOW_SAMPLES: Final = 2 * HOP_SAMPLES
PITCH_LAGS: Final = slice(SAMPLE_RATE // 400, SAMPLE_RATE // 60)  # of 400 and 60 Hz
PERIODIC: Final = 0.6  # of the autocorrelation at its peak, 1 at lag 0
QUIET: Final = 10 ** (-30 / 20)  # of the loudest window; speech with the room around it
AROUND_SAMPLES: Final = SAMPLE_RATE // 5  # of consonants before and after
STILL_OCTAVES: Final = 0.003  # from window to window; a voice moves more even when it sings one note
SPEECH: Final = 0.5  # probability above which a window is speech

Waveform = npt.NDArray[np.float32]
Detect = Callable[[Waveform], Waveform]  # the probabilities of speech, (windows,), in (samples,)


@dataclass(frozen=True, slots=True)
class Voicing:
    """What was found."""

    seconds: float  # voiced
    share: float  # of the windows that are not quiet
    still: float  # share of steps between voiced windows over which the pitch stays put
    span: tuple[int, int] = (0, 0)  # samples from just before the first voiced window to just after the last
    speech: float = 1.0  # share of the span that a detector takes for speech; 1 where none was asked


def measure_voicing(waveform: Waveform, detect: Detect | None = None) -> Voicing:
    """Of (samples,) at 16 kHz in [-1, 1]."""
    if len(waveform) < WINDOW_SAMPLES:
        return Voicing(0.0, 0.0, 0.0)
    windows = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES]
    loudness = np.sqrt(np.mean(np.square(windows), axis=1))
    loud = loudness > max(QUIET * float(loudness.max()), 1e-4)
    if not loud.any():
        return Voicing(0.0, 0.0, 0.0)
    peak, pitch_hz = _periodicity(windows)
    voiced = loud & (peak > PERIODIC)
    steps = np.abs(np.diff(np.log2(pitch_hz)))[voiced[1:] & voiced[:-1]]
    seconds = float(voiced.sum()) * HOP_SAMPLES / SAMPLE_RATE
    still = float((steps < STILL_OCTAVES).mean()) if len(steps) else 0.0
    places = np.flatnonzero(voiced) * HOP_SAMPLES
    start, end = (int(places[0]), int(places[-1]) + WINDOW_SAMPLES) if len(places) else (0, 0)
    span = max(0, start - AROUND_SAMPLES), min(end + AROUND_SAMPLES, len(waveform))
    heard = detect(waveform[span[0] : span[1]]) if detect else np.ones(1, np.float32)
    speech = float((heard >= SPEECH).mean()) if len(heard) else 0.0
    return Voicing(seconds, float(voiced.sum() / loud.sum()), still, span, speech)


def _periodicity(windows: Waveform) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The height of the highest peak of the autocorrelation, and the pitch there, (windows,) each."""
    taper = np.hanning(WINDOW_SAMPLES)
    tapered = (windows - windows.mean(axis=1, keepdims=True)) * taper
    own, unbiased = _autocorrelation(tapered), _autocorrelation(taper[None])
    unbiased = unbiased / unbiased[:, :1]
    scaled = own[:, PITCH_LAGS] / (own[:, :1] + 1e-9) / unbiased[:, PITCH_LAGS]
    lag = scaled.argmax(axis=1)
    return scaled.max(axis=1), SAMPLE_RATE / (PITCH_LAGS.start + lag)


def _autocorrelation(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(rows, 2 * WINDOW_SAMPLES, axis=1)
    return np.fft.irfft(np.square(np.abs(spectrum)), axis=1)
