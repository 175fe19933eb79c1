"""What may happen to a clip on its way to a microphone: speed, rooms, noise, telephone lines, gaps. NumPy alone.

Every draw comes from one generator, so that the same seed gives the same sound. Knows no corpus and no task.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as config

SAMPLE_RATE = 16_000
SPEED_OF_SOUND = 343.0  # metres a second
ROOMS = 48  # impulse responses that are made once and drawn from
ROOM_SECONDS = 0.35  # kept of an impulse response
TELEPHONE_HZ = (300.0, 3400.0)
MU = 255  # of the law by which G.711 spaces its 256 steps
GAP_SECONDS = (0.03, 0.12)
FRAME, FRAME_HOP = 512, 128  # samples of the frames whose spectra are bent
ENVELOPE_BINS = 9  # over which harmonics are smoothed away
BAND_MELS = (60.0, 260.0)  # width of a band that is taken out
Waveform = npt.NDArray[np.float32]  # (samples,) in [-1, 1]


@config(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """What happens to a clip before it is encoded; probabilities and ranges."""

    noise: float = 0.0  # share of clips that get background noise
    snr_db: tuple[float, float] = (6.0, 24.0)
    babble: float = 0.0  # share of the noises that are other people, talking
    gain_db: tuple[float, float] = (-6.0, 6.0)
    speed: tuple[float, float] = (1.0, 1.0)
    formants: tuple[float, float] = (1.0, 1.0)  # factor of their frequencies, another throat at the same pitch
    voice_speeds: tuple[float, ...] = (1.0,)  # on top of `speed`; each makes another speaker of everybody
    room: float = 0.0  # share of clips that are heard across a simulated room
    codec: float = 0.0  # share of clips that went through a telephone line
    gaps: float = 0.0  # share of clips that lose stretches and bands (SpecAugment, on the waveform)
    trim: float = 0.0  # share of batches whose clips are cut to their speech
    lead_seconds: tuple[float, float] = (0.0, 0.3)  # background before it, as the server's prefix padding has it
    tail_seconds: tuple[float, float] = (0.0, 0.6)  # and after, as its wait for the end of speech has it
    wide_seconds: tuple[float, float] = (0.0, 0.0)  # more of both around clips that are not cut: speech begins anywhere
    crop_seconds: float | None = None  # a random stretch of longer clips, where only the voice matters


def augmented(
    waveform: Waveform, how: Augmentation, rng: np.random.Generator, background: Callable[[int], Waveform] | None
) -> Waveform:
    """A clip as another microphone might have had it; `background` gives so many samples of noise, or is None."""
    if (speed := rng.uniform(*how.speed)) != 1.0:
        waveform = faster(waveform, speed)
    if (factor := rng.uniform(*how.formants)) != 1.0:
        waveform = throat(waveform, factor)
    room = rooms()[rng.integers(ROOMS)] if rng.random() < how.room else None
    gaps = rng.random() < how.gaps
    if room is not None or gaps:
        waveform = filtered(waveform, room, [random_band(rng) for _ in range(2)] if gaps else [])
    if gaps:
        waveform = silenced(waveform, rng)
    waveform = waveform * np.float32(10 ** (rng.uniform(*how.gain_db) / 20))
    hiss = np.float32(10 ** rng.uniform(-4.5, -3))
    waveform = waveform + rng.standard_normal(len(waveform), dtype=np.float32) * hiss
    if background and rng.random() < how.noise:
        waveform = mix(waveform, background(len(waveform)), rng.uniform(*how.snr_db))
    if rng.random() < how.codec:
        waveform = telephone(waveform)
    return np.clip(waveform, -1, 1).astype(np.float32)


def faster(waveform: Waveform, speed: float) -> Waveform:
    """Played at another speed, pitch and all; linear between samples."""
    return np.interp(np.arange(0, len(waveform) - 1, speed), np.arange(len(waveform)), waveform).astype(np.float32)


def throat(waveform: Waveform, factor: float) -> Waveform:
    """With formants `factor` times as high, at the same pitch and pace, as by a longer or shorter vocal tract.

    The spectral envelope of each frame is bent, below about 6 kHz in proportion (VTLP: Jaitly and Hinton, 2013).
    """
    padded = np.pad(waveform, (FRAME, FRAME + -len(waveform) % FRAME_HOP))
    window = np.hanning(FRAME + 1)[:FRAME].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::FRAME_HOP] * window
    spectra = np.fft.rfft(frames).astype(np.complex64)
    envelope = np.log(_smooth(np.abs(spectra)) + np.float32(1e-5))
    bins = spectra.shape[1] - 1
    knee = 0.75 * bins * min(1.0, factor)
    source = np.interp(np.arange(bins + 1), [0, knee, bins], [0, knee / factor, bins])
    below = np.minimum(source.astype(int), bins - 1)
    part = (source - below).astype(np.float32)
    bent = envelope[:, below] * (1 - part) + envelope[:, below + 1] * part
    frames = np.fft.irfft(spectra * np.exp(bent - envelope)).astype(np.float32) * window
    overlaps = FRAME // FRAME_HOP
    summed = np.zeros((len(frames) + overlaps - 1, FRAME_HOP), np.float32)
    for i in range(overlaps):
        summed[i : i + len(frames)] += frames[:, i * FRAME_HOP : (i + 1) * FRAME_HOP]
    return summed.ravel()[FRAME : FRAME + len(waveform)] / np.float32(1.5)  # squared Hann windows, four deep


def _smooth(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each row's running mean over ENVELOPE_BINS."""
    half = ENVELOPE_BINS // 2
    sums = np.cumsum(np.pad(rows, ((0, 0), (half + 1, half)), mode="edge"), axis=1)
    return (sums[:, ENVELOPE_BINS:] - sums[:, :-ENVELOPE_BINS]) / np.float32(ENVELOPE_BINS)


def mix(speech: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Speech with noise at a ratio of mean powers."""
    power = np.mean(np.square(speech)) / max(float(np.mean(np.square(noise))), 1e-10)
    return speech + noise * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))


def filtered(waveform: Waveform, room: Waveform | None, bands: list[tuple[float, float]]) -> Waveform:
    """Without some bands in Hz; convolved with a room, and then as loud as before. The length stays."""
    size = 1 << (len(waveform) + int(ROOM_SECONDS * SAMPLE_RATE) - 1).bit_length()
    spectrum = np.fft.rfft(waveform, size)
    if room is not None:
        spectrum *= np.fft.rfft(room, size)
    for low, high in bands:
        spectrum[int(low / SAMPLE_RATE * size) : int(high / SAMPLE_RATE * size)] = 0
    heard = np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)
    if room is None:
        return heard
    loudness = np.sqrt(np.mean(np.square(waveform)) / max(float(np.mean(np.square(heard))), 1e-12))
    return (heard * loudness).astype(np.float32)


def random_band(rng: np.random.Generator) -> tuple[float, float]:
    """A stretch of the mel scale, in Hz."""
    top = _mels(SAMPLE_RATE / 2)
    width = rng.uniform(*BAND_MELS)
    start = rng.uniform(0, top - width)
    return _hertz(start), _hertz(start + width)


def silenced(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Without a short stretch in each two seconds."""
    waveform = waveform.copy()
    for _ in range(1 + len(waveform) // (2 * SAMPLE_RATE)):
        start = rng.integers(len(waveform))
        waveform[start : start + int(rng.uniform(*GAP_SECONDS) * SAMPLE_RATE)] = 0
    return waveform


def telephone(waveform: Waveform) -> Waveform:
    """The band of a telephone line, in the 256 steps of G.711's mu-law."""
    low, high = TELEPHONE_HZ
    narrow = np.clip(filtered(waveform, None, [(0.0, low), (high, SAMPLE_RATE)]), -1, 1)
    squeezed = np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU)
    steps = np.round(squeezed * 127) / 127
    return (np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU).astype(np.float32)


@cache
def rooms() -> list[Waveform]:
    """Impulse responses of ROOMS random rooms, always the same."""
    rng = np.random.default_rng(ROOMS)
    return [_random_room(rng) for _ in range(ROOMS)]


def _random_room(rng: np.random.Generator) -> Waveform:
    size = rng.uniform((3.0, 2.5, 2.4), (8.0, 6.0, 3.5))
    ears = rng.uniform(0.3, 0.7, 3) * size
    mouth = np.clip(ears + rng.normal(0, 1.0, 3), 0.2, size - 0.2)
    return room_response(size, mouth, ears, reverberation_seconds=rng.uniform(0.15, 0.6))


def room_response(
    size: npt.NDArray[np.float64],
    mouth: npt.NDArray[np.float64],
    ears: npt.NDArray[np.float64],
    reverberation_seconds: float,
) -> Waveform:
    """What a click at `mouth` is at `ears` in an empty box, by mirror images (Allen and Berkley, 1979).

    size, mouth, ears: (3,) in metres. The walls reflect alike, as much as Sabine's formula wants for the
    reverberation time (60 dB down). Returns (samples,), the direct sound at the start, its energy 1.
    """
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    absorbed = min(0.161 * float(np.prod(size)) / (surface * reverberation_seconds), 0.95)
    reach = ROOM_SECONDS * SPEED_OF_SOUND
    per_axis = [_images(*axis, reach) for axis in zip(size, mouth, ears, strict=True)]
    distance = np.sqrt(
        per_axis[0][0][:, None, None] ** 2 + per_axis[1][0][None, :, None] ** 2 + per_axis[2][0][None, None, :] ** 2
    )
    bounces = per_axis[0][1][:, None, None] + per_axis[1][1][None, :, None] + per_axis[2][1][None, None, :]
    strength = (1 - absorbed) ** (bounces / 2) / distance
    delay = np.round((distance - distance.min()) / SPEED_OF_SOUND * SAMPLE_RATE).astype(int)
    samples = int(ROOM_SECONDS * SAMPLE_RATE)
    near = delay < samples
    response = np.bincount(delay[near], strength[near], samples)
    return (response / np.sqrt(np.square(response).sum())).astype(np.float32)


def _images(
    length: float, mouth: float, ears: float, reach: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Along one axis: how far each mirror image of the mouth is from the ears, and how many walls made it."""
    times = np.arange(-int(reach / (2 * length)) - 1, int(reach / (2 * length)) + 2)
    straight, mirrored = 2 * times * length + mouth - ears, 2 * times * length - mouth - ears
    return np.concatenate([straight, mirrored]), np.concatenate([np.abs(2 * times), np.abs(2 * times - 1)])


def _mels(hertz: float) -> float:
    return float(1127 * np.log1p(hertz / 700))


def _hertz(mels: float) -> float:
    return float(700 * np.expm1(mels / 1127))
