"""Whisper's log-mel, whole or while somebody speaks.

Its floor hangs on the loudest frame of the window, which may be still to come: frames are kept without the floor, and
it is applied when they are asked for. So the frames of what was said so far are those of the same audio at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
EDGE = WINDOW_SAMPLES // 2  # samples that a frame reaches to either side of its place
LEAST_SAMPLES = EDGE + 1  # of a waveform that can be mirrored at its ends
DECADES = 8.0  # below the loudest frame that are kept


def log_mel(waveform: Tensor, filters: Tensor) -> Tensor:
    """(samples,) and (bins, mels) -> (mels, frames), as Whisper has it; the last frame may be part silence.

    Both ends go on as mirror images, so that frames lie centred on their places.
    """
    short = max(-len(waveform) % HOP_SAMPLES, LEAST_SAMPLES - len(waveform))
    mirrored = F.pad(F.pad(waveform.double(), (0, short))[None], (EDGE, EDGE), mode="reflect")[0]
    return floored(_raw_frames(mirrored, filters)[:, : frames_of(len(waveform))])


def frames_of(samples: int) -> int:
    """How many frames so many samples have."""
    return -(-samples // HOP_SAMPLES)


def floored(raw: Tensor) -> Tensor:
    """Raw frames of a whole window, (mels, frames), as the encoder wants them."""
    return ((raw.clamp(min=raw.max() - DECADES) + 4) / 4).float()


def _raw_frames(waveform: Tensor, filters: Tensor) -> Tensor:
    """(samples,) -> (mels, frames) of its windows, without the floor; in double precision as the release has it."""
    window = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64, device=waveform.device)
    spectrum = torch.fft.rfft(waveform.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * window)
    return (spectrum.abs().square() @ filters.double()).T.clamp(min=1e-10).log10()


class LiveLogMel:
    """The frames of one window of audio that grows; each is worked out once, those at the end again."""

    def __init__(self, filters: Tensor) -> None:
        self.filters = filters
        self.samples = 0
        self.tail = torch.empty(0, dtype=torch.float64)  # from where the first frame begins that is not final
        self.final = torch.empty(filters.shape[1], 0, dtype=torch.float64)  # frames that no later sample reaches

    def push(self, waveform: Tensor) -> None:
        """More audio, (samples,)."""
        before, self.samples = self.samples, self.samples + len(waveform)
        self.tail = torch.cat([self.tail, waveform.double()])
        if self.samples < LEAST_SAMPLES:
            return
        if before < LEAST_SAMPLES:
            self.tail = F.pad(self.tail[None], (EDGE, 0), mode="reflect")[0]
        count = (len(self.tail) - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        if count > 0:
            self.final = torch.cat([self.final, _raw_frames(self.tail, self.filters)], dim=1)
            self.tail = self.tail[count * HOP_SAMPLES :]

    def frames(self) -> Tensor:
        """What `log_mel` says of the audio so far, (mels, frames)."""
        if self.samples < LEAST_SAMPLES:
            return log_mel(self.tail, self.filters)
        whole = F.pad(self.tail, (0, -self.samples % HOP_SAMPLES))
        rest = _raw_frames(F.pad(whole[None], (0, EDGE), mode="reflect")[0], self.filters)
        return floored(torch.cat([self.final, rest], dim=1)[:, : frames_of(self.samples)])
