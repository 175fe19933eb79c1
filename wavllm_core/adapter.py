"""From encoder frames to what the language model reads, and to who is speaking."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.config import AdapterConfig
from wavllm_core.layers import CausalConv1d, ConvState


class Bottleneck(nn.Module):
    """x + LayerNorm(up(GELU(down(x)))): the norm is on the branch."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.down_layer = nn.Linear(dim, hidden_dim)
        self.up_layer = nn.Linear(hidden_dim, dim)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) to the same."""
        return x + self.layer_norm(self.up_layer(F.gelu(self.down_layer(x))))


@dataclass(frozen=True)
class AdapterState:
    """The tails of both convolutions."""

    conv1: ConvState
    conv2: ConvState


class ModalityAdapter(nn.Module):
    """Two convolutions with gated linear units, a bottleneck, a projection; looks back only.

    At stride 2 a kernel of 3 with one frame of left context is the published symmetric padding exactly.
    """

    def __init__(self, in_dim: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden, wide = config.conv_dims
        self.conv1 = CausalConv1d(in_dim, hidden, 3, config.conv_strides[0])
        self.conv2 = CausalConv1d(hidden // 2, wide, 3, config.conv_strides[1])
        self.adapter = Bottleneck(wide // 2, config.bottleneck_dim)
        self.projector = nn.Linear(wide // 2, config.out_dim)

    def init_state(self, batch: int) -> AdapterState:
        """Zeros before the first frame."""
        return AdapterState(self.conv1.init_state(batch), self.conv2.init_state(batch))

    def step(self, state: AdapterState, frames: Tensor) -> tuple[AdapterState, Tensor]:
        """(batch, frames, in_dim), a multiple of both strides -> (batch, vectors, out_dim)."""
        conv1, x = self.conv1.step(state.conv1, frames.transpose(1, 2))
        conv2, x = self.conv2.step(state.conv2, F.glu(x, dim=1))
        return AdapterState(conv1, conv2), self.projector(self.adapter(F.glu(x, dim=1).transpose(1, 2)))

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """All of an utterance of any length; what the strides leave over is completed with zeros, as published.

        frames: (batch, frames, in_dim); lengths: (batch,) true frames of padded rows
        returns: (batch, vectors, out_dim), each stride rounding up
        """
        x = frames.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            if lengths is not None:
                x = x * inside(lengths, x.shape[-1])[:, None]
                lengths = (lengths + conv.stride - 1) // conv.stride
            x = F.glu(conv(F.pad(x, (0, -x.shape[-1] % conv.stride))), dim=1)
        return self.projector(self.adapter(x.transpose(1, 2)))


def inside(lengths: Tensor, longest: int) -> Tensor:
    """Which places of padded rows are real, (batch,) -> (batch, longest), bool."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class PoolState:
    """Weighted sums over the frames of an utterance so far; in float64, as a variance is a small difference of them."""

    weight: Tensor  # (batch, 1)
    total: Tensor  # (batch, dim)
    squares: Tensor  # (batch, dim)


class SpeakerHead(nn.Module):
    """Attentive statistics of acoustic frames to a vector of length 1; the sums roll along."""

    def __init__(self, dim: int, vector_dim: int) -> None:
        super().__init__()
        self.attention = nn.Linear(dim, 1)
        self.projection = nn.Linear(2 * dim, vector_dim)

    def init_state(self, batch: int) -> PoolState:
        """No frame yet."""
        dim, weight = self.attention.in_features, self.projection.weight
        one, many = (weight.new_zeros(batch, size, dtype=torch.float64) for size in (1, dim))
        return PoolState(one, many, many)

    def step(self, state: PoolState, frames: Tensor, lengths: Tensor | None = None) -> PoolState:
        """Add (batch, frames, dim); `lengths`, (batch,), are the true frames of padded rows."""
        weight = self.attention(frames).sigmoid()
        if lengths is not None:
            weight = weight * inside(lengths, frames.shape[1])[..., None]
        weight, frames = weight.double(), frames.double()
        return PoolState(
            state.weight + weight.sum(1),
            state.total + (weight * frames).sum(1),
            state.squares + (weight * frames.square()).sum(1),
        )

    def statistics(self, state: PoolState) -> Tensor:
        """Means, then deviations, (batch, 2 * dim)."""
        weight = state.weight.clamp(min=1e-6)
        mean = state.total / weight
        deviation = (state.squares / weight - mean.square()).clamp(min=1e-5).sqrt()
        return torch.cat([mean, deviation], dim=-1).to(self.projection.weight.dtype)

    def vector(self, state: PoolState) -> Tensor:
        """(batch, vector_dim), each of length 1."""
        return F.normalize(self.projection(self.statistics(state)), dim=-1)
