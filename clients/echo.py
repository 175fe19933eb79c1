"""Takes the loudspeaker out of what the microphone hears: the echo canceller of WebRTC, from the package livekit.

Runs on this machine alone; the package is loaded when it is asked for, not before.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from types import ModuleType
from typing import Any, Final

import numpy as np
import soxr

from clients.realtime import SAMPLE_RATE, ClientError, Waveform

FRAME_SAMPLES: Final = SAMPLE_RATE // 100  # the canceller works on 10 ms
MAX_PLAYED_BLOCKS: Final = 100  # not taken in yet; the oldest is dropped


class EchoCanceller:
    """Knows what was played, and cleans what is heard."""

    def __init__(self, playback_rate: int, delay_s: float) -> None:
        """delay_s: from a sample being taken for playing to its echo being recorded

        Raises ClientError when the package is not installed.
        """
        self._rtc: Any = load_livekit()
        self._processing = self._rtc.AudioProcessingModule(
            echo_cancellation=True, noise_suppression=False, high_pass_filter=True, auto_gain_control=False
        )
        self._processing.set_stream_delay_ms(round(1000 * delay_s))
        self._resampler = soxr.ResampleStream(playback_rate, SAMPLE_RATE, 1, dtype="float32")
        self._played: deque[Waveform] = deque(maxlen=MAX_PLAYED_BLOCKS)
        self._lock = Lock()
        self._far, self._near = np.empty(0, np.float32), np.empty(0, np.float32)  # less than a frame each

    def played(self, block: Waveform) -> None:
        """Take in what is being played, silence too; from whatever thread."""
        with self._lock:
            self._played.append(block)

    def clean(self, waveform: Waveform) -> Waveform:
        """What of it is not echo; up to 10 ms of it come with the next."""
        with self._lock:
            blocks = list(self._played)
            self._played.clear()
        for block in blocks:
            self._far = np.concatenate([self._far, self._resampler.resample_chunk(block)])
        while len(self._far) >= FRAME_SAMPLES:
            self._processing.process_reverse_stream(self._frame(self._far[:FRAME_SAMPLES]))
            self._far = self._far[FRAME_SAMPLES:]
        self._near = np.concatenate([self._near, waveform])
        cleaned = []
        while len(self._near) >= FRAME_SAMPLES:
            frame = self._frame(self._near[:FRAME_SAMPLES])
            self._processing.process_stream(frame)
            cleaned.append(np.frombuffer(frame.data, np.int16).astype(np.float32) / np.float32(32_768))
            self._near = self._near[FRAME_SAMPLES:]
        return np.concatenate(cleaned) if cleaned else np.empty(0, np.float32)

    def _frame(self, waveform: Waveform) -> Any:
        pcm = (np.clip(waveform, -1, 1) * 32_767).astype(np.int16).tobytes()
        return self._rtc.AudioFrame(pcm, SAMPLE_RATE, 1, FRAME_SAMPLES)


def load_livekit() -> ModuleType:
    """The package, as far as it is needed. Raises ClientError when it is not installed."""
    try:
        from livekit import rtc
    except ModuleNotFoundError as error:
        message = "echo cancellation needs one more package: pip install 'wavllm-agent[echo]'"
        raise ClientError(message) from error
    module: ModuleType = rtc
    return module
