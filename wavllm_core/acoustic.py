"""Who speaks, and how: a WavLM-type encoder in its rolling form.

WavLM-large's normalisation (layer norm in the convolutions, pre-norm layers) is frame-local and needs no
change to stream. The positional convolution looks back only, and attention is block-causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from wavllm_core.config import AcousticConfig, TransformerConfig
from wavllm_core.layers import AttentionState, BlockAttention, Blocks, CausalConv1d, ConvState, block_layout


class WaveformConv(nn.Module):
    """One strided convolution of the front end: convolution, layer norm over channels, GELU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = CausalConv1d(channels, out_channels, kernel, stride)
        self.layer_norm = nn.LayerNorm(out_channels)

    def step(self, state: ConvState, chunk: Tensor) -> tuple[ConvState, Tensor]:
        """(batch, channels, frames) -> (batch, out_channels, frames / stride)."""
        state, x = self.conv.step(state, chunk)
        return state, F.gelu(self.layer_norm(x.transpose(1, 2)).transpose(1, 2))


class RelativeBias(nn.Module):
    """WavLM's bucketed relative positions, one table for all layers."""

    def __init__(self, heads: int, buckets: int, max_distance: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(buckets, heads)
        self.buckets, self.max_distance = buckets, max_distance

    def forward(self, distance: Tensor) -> Tensor:
        """Key position minus query position, (frames, keys) -> (heads, frames, keys)."""
        return self.embed(relative_buckets(distance, self.buckets, self.max_distance)).permute(2, 0, 1)


def relative_buckets(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """WavLM's bucket of each distance, key position minus query position; any shape.

    Half the buckets are for keys ahead; half of each half is exact, the rest logarithmic.
    """
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    coarse = exact + (torch.log(size.clamp(min=exact) / exact) * scale).long()
    return torch.where(size < exact, size, coarse.clamp(max=half - 1)) + half * (distance > 0)


def position_gate(projected: Tensor, const: Tensor) -> Tensor:
    """How much a query heeds relative positions: WavLM's two gates, (batch, heads, frames, 8) -> (..., frames, 1)."""
    update, reset = projected.unflatten(-1, (2, 4)).sum(-1, keepdim=True).sigmoid().unbind(-2)
    return update * (reset * const - 1.0) + 2.0


class AcousticLayer(nn.Module):
    """WavLM's encoder layer: the relative bias is scaled, per head and query, by the query's content."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = BlockAttention(config.dim, config.heads, key_bias=True)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(config.heads))
        self.gru_rel_pos_linear = nn.Linear(config.dim // config.heads, 8)
        self.layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def gated_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        """(batch, frames, dim), (heads, frames, keys) -> (batch, heads, frames, keys)."""
        projected = self.gru_rel_pos_linear(self.attention.split(x))
        return position_gate(projected, self.gru_rel_pos_const[:, None, None]) * bias

    def step(
        self, state: AttentionState, x: Tensor, bias: Tensor, blocks: Blocks, keep_frames: int
    ) -> tuple[AttentionState, Tensor]:
        """Advance by one chunk, (batch, frames, dim)."""
        normed = self.layer_norm(x)
        mask = self.gated_bias(normed, bias).masked_fill(~blocks.mask, -torch.inf)
        state, attended = self.attention.step(state, normed, mask, keep_frames)
        x = x + attended
        return state, x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


@dataclass(frozen=True)
class AcousticState:
    """A stream of waveform, between two chunks."""

    convs: tuple[ConvState, ...]
    position: ConvState
    layers: tuple[AttentionState, ...]


class AcousticEncoder(nn.Module):
    """Waveform to the learned mix of all layers' states. Look-ahead as in `SemanticEncoder`."""

    def __init__(self, config: AcousticConfig, block_frames: int, left_blocks: int) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.block_frames, self.left_blocks = block_frames, left_blocks
        channels = (1, *config.conv_dims)
        shapes = zip(channels, config.conv_dims, config.conv_kernels, config.conv_strides, strict=False)
        self.convs = nn.ModuleList(WaveformConv(*shape) for shape in shapes)
        self.feature_norm = nn.LayerNorm(config.conv_dims[-1])
        self.feature_projection = nn.Linear(config.conv_dims[-1], dim)
        self.position = CausalConv1d(dim, dim, config.position_kernel, 1, groups=config.position_groups)
        weight_norm(self.position.conv, dim=2)
        self.relative_bias = RelativeBias(
            config.transformer.heads, config.relative_buckets, config.relative_max_distance
        )
        self.layers = nn.ModuleList(AcousticLayer(config.transformer) for _ in range(config.transformer.layers))
        self.layer_norm = nn.LayerNorm(dim)
        self.mix = nn.Parameter(torch.ones(config.transformer.layers + 1))

    def init_state(self, batch: int) -> AcousticState:
        """The start of an utterance."""
        return AcousticState(
            tuple(conv.conv.init_state(batch) for conv in self.convs),
            self.position.init_state(batch),
            tuple(layer.attention.init_state(batch) for layer in self.layers),
        )

    def step(
        self, state: AcousticState, waveform: Tensor, lengths: Tensor | None = None
    ) -> tuple[AcousticState, Tensor]:
        """Advance by whole blocks; only the last chunk may end inside one.

        waveform: (batch, samples), a multiple of the frame
        lengths: (batch,) true frames of each row, where rows of several lengths are padded
        returns: the next state, and (batch, frames, dim)
        """
        x, convs = waveform[:, None], []
        for conv, conv_state in zip(self.convs, state.convs, strict=True):
            conv_state, x = conv.step(conv_state, x)
            convs.append(conv_state)
        x = self.feature_projection(self.feature_norm(x.transpose(1, 2)))
        position, shift = self.position.step(state.position, x.transpose(1, 2))
        x = x + F.gelu(shift).transpose(1, 2)
        cached = state.layers[0].keys.shape[2]
        blocks = block_layout(x.shape[1], cached, self.block_frames, self.left_blocks, lengths)
        bias = self.relative_bias(blocks.distance)
        keep_frames = self.left_blocks * self.block_frames
        weights = self.mix.softmax(0)
        mixed, layers = weights[0] * x, []
        for layer, layer_state, weight in zip(self.layers, state.layers, weights[1:], strict=True):
            layer_state, x = layer.step(layer_state, x, bias, blocks, keep_frames)
            mixed = mixed + weight * x
            layers.append(layer_state)
        return AcousticState(tuple(convs), position, tuple(layers)), self.layer_norm(mixed)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """A whole utterance at once, under the same block mask."""
        return self.step(self.init_state(waveform.shape[0]), waveform, lengths)[1]


def init_as_filterbank(conv: CausalConv1d, sample_rate: int) -> None:
    """Start a long first convolution as windowed waves on a mel-like scale, in four phases each.

    Training from a filter bank instead of noise saves a small encoder the learning of one.
    """
    channels, _, kernel = conv.conv.weight.shape
    bands = channels // 4
    mels = torch.linspace(0.05, 1.0, bands) * math.log1p(sample_rate / 2 / 700)
    hertz = 700 * torch.expm1(mels)
    angles = 2 * math.pi * hertz[:, None] * torch.arange(kernel) / sample_rate
    window = torch.hann_window(kernel) / math.sqrt(kernel)
    phases = [(angles + shift * math.pi / 2).cos() * window for shift in range(4)]
    with torch.no_grad():
        conv.conv.weight[: 4 * bands, 0] = torch.cat(phases)
