"""Is there speech in 20 ms of audio? Knows the detectors, and nothing of turns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import webrtcvad

from agent.config import Detector
from agent.errors import AgentError
from agent.hearing.silero import SileroVad, load_silero

SAMPLE_RATE: Final = 16_000
FRAME_SAMPLES: Final = 320  # 20 ms
FRAME_BYTES: Final = 2 * FRAME_SAMPLES

log = logging.getLogger(__name__)


class Vad(Protocol):
    """Hears one stream frame by frame, and may remember the frames before."""

    lag_samples: int  # its yes comes so much after speech began

    def is_speech(self, frame: bytes) -> bool:
        """Whether someone speaks; `frame` is FRAME_BYTES of 16-bit mono at 16 kHz."""


class WebRtcVad:
    """The detector of WebRTC: two microseconds a frame, tells speech from quiet but hardly from noise.

    It goes on saying yes for 60 to 140 ms after the last sound, and for its first frames of any noise.
    """

    lag_samples = 0

    def __init__(self, threshold: float) -> None:
        """The `threshold` of the protocol, 0 to 1, picks one of WebRTC's four modes.

        [0, 0.25) is mode 0, which takes most for speech; then 1; [0.5, 0.75) is 2; from 0.75 on it is 3, the
        strictest.
        """
        self._detector = webrtcvad.Vad(min(3, int(4 * threshold)))

    def is_speech(self, frame: bytes) -> bool:
        return bool(self._detector.is_speech(frame, SAMPLE_RATE))


def find_vad(detector: Detector) -> Callable[[float], Vad]:
    """Makes a detector for one stream from a threshold; all streams share its weights.

    Where Silero's weights are not to be had, WebRTC's does instead, and the log says so once.
    """
    if detector == "silero":
        try:
            return partial(SileroVad, load_silero())
        except AgentError as error:
            log.warning("turns are found by webrtcvad, which takes noise for speech: %s", error)
    return WebRtcVad
