"""Log-mel frames with a constant maximum, so that a frame never depends on later audio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WINDOW_SAMPLES = 400
LOG_MEL_MAX = 1.5  # log10 power; the constant that stands for Whisper's maximum over the utterance
DYNAMIC_RANGE = 8.0  # decades below the maximum that are kept


@dataclass(frozen=True)
class LogMelState:
    """What the analysis window still needs of earlier audio."""

    tail: Tensor  # (batch, WINDOW_SAMPLES - hop)


class LogMel(nn.Module):
    """Whisper's log-mel with windows that end at the frame: it looks at no sample after it."""

    def __init__(self, mels: int, sample_rate: int, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.overlap = WINDOW_SAMPLES - hop_samples
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)
        self.register_buffer("filters", slaney_mel_filters(mels, sample_rate), persistent=False)

    def init_state(self, batch: int) -> LogMelState:
        """Silence before the first sample."""
        return LogMelState(self.window.new_zeros(batch, self.overlap))

    def step(self, state: LogMelState, waveform: Tensor) -> tuple[LogMelState, Tensor]:
        """Advance by one chunk.

        waveform: (batch, samples), samples a multiple of the hop
        returns: the next state, and (batch, mels, samples / hop)
        """
        padded = torch.cat([state.tail, waveform], dim=-1)
        frames = padded.unfold(-1, WINDOW_SAMPLES, self.hop_samples) * self.window
        power = torch.fft.rfft(frames).abs().square()
        log_mel = (power @ self.filters).clamp(min=1e-10).log10()
        log_mel = log_mel.clamp(min=LOG_MEL_MAX - DYNAMIC_RANGE)
        return LogMelState(padded[:, -self.overlap :]), ((log_mel + 4.0) / 4.0).transpose(1, 2)

    def forward(self, waveform: Tensor) -> Tensor:
        """The frames of a whole waveform, (batch, samples) -> (batch, mels, samples / hop)."""
        return self.step(self.init_state(waveform.shape[0]), waveform)[1]


def slaney_mel_filters(mels: int, sample_rate: int) -> Tensor:
    """Triangles of equal area on Slaney's mel scale, (WINDOW_SAMPLES // 2 + 1, mels).

    The scale is linear up to 1 kHz (15 mels) and logarithmic above, 27 mels for a factor of 6.4.
    """
    log_step = math.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return 15 + math.log(hertz / 1000) / log_step if hertz >= 1000 else hertz * 15 / 1000

    points = torch.linspace(0, to_mel(sample_rate / 2), mels + 2, dtype=torch.float64)
    hertz = torch.where(points >= 15, 1000 * torch.exp((points - 15) * log_step), points * 1000 / 15)
    bins = torch.linspace(0, sample_rate / 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()
