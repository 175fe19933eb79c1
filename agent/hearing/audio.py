"""Between the audio of the wire and 16-bit PCM: G.711, and other rates.

`Decoder` and `Encoder` hold the state of one stream, which does not grow; neither knows events or turns.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.hearing.listener import Resampler
from agent.protocol.errors import ProtocolError
from agent.protocol.formats import AudioFormat
from agent.speech.voice import VOICE_RATE

MU_BIAS: Final = 132
MU_CLIP: Final = 32_635


class Decoder:
    """What a client sends, as PCM at 16 kHz."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format, self._resampler = audio_format, Resampler(audio_format.rate_hz)

    def push(self, audio: bytes) -> bytes:
        """Whole samples only; see `check_samples`."""
        return self._resampler.push(audio if self._format.type == "audio/pcm" else expand(self._format.type, audio))

    def flush(self) -> bytes:
        """What was held back; the next audio begins a new stream."""
        return self._resampler.flush()


class Encoder:
    """What a voice says, or another source of PCM, as a client wants to have it."""

    def __init__(self, audio_format: AudioFormat, source_rate: int = VOICE_RATE) -> None:
        self._format, self._resampler = audio_format, Resampler(source_rate, audio_format.rate_hz)

    def push(self, pcm: bytes) -> bytes:
        return self._encode(self._resampler.push(pcm))

    def flush(self) -> bytes:
        """What was held back, at the end of all."""
        return self._encode(self._resampler.flush())

    def _encode(self, pcm: bytes) -> bytes:
        return pcm if self._format.type == "audio/pcm" else compress(self._format.type, pcm)


def check_samples(audio_format: AudioFormat, audio: bytes, param: str) -> None:
    """Raises ProtocolError about the field `param` when a sample is cut in two."""
    if len(audio) % audio_format.sample_bytes:
        message = f"{param} holds {len(audio)} bytes, an odd number; a 16-bit sample takes two"
        raise ProtocolError("invalid_audio", message, param=param)


def expand(law: str, audio: bytes) -> bytes:
    """16-bit PCM of G.711; `law` is audio/pcmu or audio/pcma."""
    return EXPANDED[law][np.frombuffer(audio, np.uint8)].tobytes()


def compress(law: str, pcm: bytes) -> bytes:
    """G.711 of 16-bit PCM."""
    return bytes(COMPRESSED[law][np.frombuffer(pcm, "<u2")].tobytes())


def _expanded_mu() -> npt.NDArray[np.int16]:
    """The sample of each byte, by ITU-T G.711: 14 bits, here in the upper part of 16."""
    code = ~np.arange(256) & 0xFF
    size = ((((code & 0x0F) << 3) + MU_BIAS) << (code >> 4 & 7)) - MU_BIAS
    return np.where(code & 0x80, -size, size).astype("<i2")


def _expanded_a() -> npt.NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    segment, size = code >> 4 & 7, ((code & 0x0F) << 4) + 8
    size = np.where(segment, size + 0x100 << np.maximum(segment - 1, 0), size)
    return np.where(code & 0x80, size, -size).astype("<i2")


def _compressed_mu() -> npt.NDArray[np.uint8]:
    """The byte of each sample, negative ones in the upper half."""
    samples = np.arange(65_536).astype("<u2").view("<i2").astype(int)
    size = np.minimum(np.abs(samples & ~3), MU_CLIP) + MU_BIAS  # the law has 14 bits, rounded down
    segment: npt.NDArray[np.int32] = np.frexp(size)[1] - 8
    code = np.where(samples < 0, 0x80, 0) | segment << 4 | size >> segment + 3 & 0x0F
    return np.asarray(~code & 0xFF, np.uint8)


def _compressed_a() -> npt.NDArray[np.uint8]:
    samples = np.arange(65_536).astype("<u2").view("<i2").astype(int) >> 3
    size = np.where(samples < 0, ~samples, samples)
    segment: npt.NDArray[np.int32] = np.maximum(np.frexp(size)[1] - 5, 0)
    code = segment << 4 | size >> np.maximum(segment, 1) & 0x0F
    return (code ^ np.where(samples < 0, 0x55, 0xD5)).astype(np.uint8)


EXPANDED: Final = {"audio/pcmu": _expanded_mu(), "audio/pcma": _expanded_a()}
COMPRESSED: Final = {"audio/pcmu": _compressed_mu(), "audio/pcma": _compressed_a()}
