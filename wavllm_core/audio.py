"""From a sound file, or a stretch of one, to the samples that a model takes. Knows no model and no manifest."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from wavllm_core.errors import InputError

SAMPLE_RATE = 16_000
MIN_SAMPLE_RATE = 4_000  # of a file; below it there is no speech, and a small file would become a huge one
Waveform = npt.NDArray[np.float32]  # (samples,) mono, full scale is 1
_ZIP_ENTRY = re.compile(
    r"(?P<file>.+\.zip):(?P<offset>\d{1,15}):(?P<length>\d{1,15})"
)  # as fairseq names stored entries


def read_audio(source: str | Path, start_frame: int = 0, end_frame: int | None = None) -> Waveform:
    """A sound file as mono at 16 kHz, (samples,): down-mixed, resampled, its volume left alone.

    source: a path, or `file.zip:offset:length`, where so many bytes of an uncompressed zip are the sound file
    start_frame, end_frame: the stretch to read, counted at the file's own rate; the end is not in it
    A WAV file that breaks off is read as far as it goes.
    Raises InputError, naming the source, for what is missing, damaged, empty or beyond the end.
    """
    with _open(str(source)) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                sample_rate, frames = sound.samplerate, sound.frames
                if not frames:
                    raise InputError(f"{source}: holds no audio (0 samples)")
                if sample_rate < MIN_SAMPLE_RATE:
                    raise InputError(f"{source}: {sample_rate} Hz; at least {MIN_SAMPLE_RATE} Hz are needed")
                end = frames if end_frame is None else end_frame
                if not 0 <= start_frame < end <= frames:
                    raise InputError(f"{source}: frames {start_frame} to {end} of a file that has {frames}")
                sound.seek(start_frame)
                channels = sound.read(end - start_frame, dtype="float32", always_2d=True)  # (frames, channels)
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats, by their suffix
            reason = getattr(error, "error_string", error)
            raise InputError(f"{source}: not a sound file that can be decoded ({reason})") from error
    if len(channels) != end - start_frame:
        raise InputError(f"{source}: damaged: {len(channels)} of {end - start_frame} frames can be decoded")
    if not np.isfinite(channels).all():
        raise InputError(f"{source}: holds samples that are not numbers")
    waveform: Waveform = soxr.resample(channels.mean(axis=1), sample_rate, SAMPLE_RATE)
    if not len(waveform):
        raise InputError(f"{source}: {len(channels)} frames at {sample_rate} Hz are less than a sample at 16 kHz")
    return waveform


def _open(source: str) -> BinaryIO:
    entry = _ZIP_ENTRY.fullmatch(source)
    path = Path(entry["file"] if entry else source)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if entry is None:
            return path.open("rb")
        offset, length, size = int(entry["offset"]), int(entry["length"]), path.stat().st_size
        if offset + length > size:
            raise InputError(f"{source}: bytes up to {offset + length} of a file that has {size}")
        with path.open("rb") as archive:
            archive.seek(offset)
            return io.BytesIO(archive.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
