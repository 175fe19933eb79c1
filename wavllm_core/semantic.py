"""What was said: a Whisper-type encoder in its rolling form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.config import SemanticConfig, TransformerConfig
from wavllm_core.layers import AttentionState, BlockAttention, CausalConv1d, ConvState, block_layout


class SemanticLayer(nn.Module):
    """Whisper's encoder layer: pre-norm attention, pre-norm feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = BlockAttention(config.dim, config.heads, key_bias=False)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def step(self, state: AttentionState, x: Tensor, mask: Tensor, keep_frames: int) -> tuple[AttentionState, Tensor]:
        """Advance by one chunk, (batch, frames, dim)."""
        state, attended = self.self_attn.step(state, self.self_attn_layer_norm(x), mask, keep_frames)
        return state, self._fed_forward(x + attended)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One chunk that nothing precedes and nothing follows."""
        return self._fed_forward(x + self.self_attn(self.self_attn_layer_norm(x), mask))

    def _fed_forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


@dataclass(frozen=True)
class SemanticState:
    """A stream of log-mel frames, between two chunks."""

    conv1: ConvState
    conv2: ConvState
    layers: tuple[AttentionState, ...]
    position: int  # frames so far in this window


class SemanticEncoder(nn.Module):
    """Log-mel to states of `config.transformer.dim`; a frame sees its own block and `left_blocks` before.

    Look-ahead is to the end of the frame's block; `step` takes whole blocks and adds none of its own.
    """

    def __init__(self, config: SemanticConfig, block_frames: int, left_blocks: int) -> None:
        super().__init__()
        dim = config.transformer.dim
        self.max_frames = config.max_frames
        self.block_frames, self.left_blocks = block_frames, left_blocks
        self.conv1 = CausalConv1d(config.mels, dim, 3, config.conv_strides[0])
        self.conv2 = CausalConv1d(dim, dim, 3, config.conv_strides[1])
        self.register_buffer("positions", sinusoids(config.max_frames, dim), persistent=False)
        self.layers = nn.ModuleList(SemanticLayer(config.transformer) for _ in range(config.transformer.layers))
        self.layer_norm = nn.LayerNorm(dim)

    def init_state(self, batch: int) -> SemanticState:
        """The start of a window."""
        return SemanticState(
            self.conv1.init_state(batch),
            self.conv2.init_state(batch),
            tuple(layer.self_attn.init_state(batch) for layer in self.layers),
            0,
        )

    def step(
        self, state: SemanticState, log_mel: Tensor, lengths: Tensor | None = None
    ) -> tuple[SemanticState, Tensor]:
        """Advance by whole blocks; only the last chunk of a window may end inside one.

        log_mel: (batch, mels, mel frames), a multiple of both strides
        lengths: (batch,) true encoder frames of each row, where rows of several lengths are padded
        returns: the next state, and (batch, frames, dim)
        Raises ValueError past `max_frames`.
        """
        conv1, x = self.conv1.step(state.conv1, log_mel)
        conv2, x = self.conv2.step(state.conv2, F.gelu(x))
        x = F.gelu(x).transpose(1, 2)
        end = state.position + x.shape[1]
        if end > self.max_frames:
            raise ValueError(f"{end} frames in a window of {self.max_frames}")
        x = x + self.positions[state.position : end]
        cached = state.layers[0].keys.shape[2]
        mask = block_layout(x.shape[1], cached, self.block_frames, self.left_blocks, lengths).mask
        keep_frames = self.left_blocks * self.block_frames
        layers = []
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            layer_state, x = layer.step(layer_state, x, mask, keep_frames)
            layers.append(layer_state)
        return SemanticState(conv1, conv2, tuple(layers), end), self.layer_norm(x)

    def forward(self, log_mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """A whole window at once, under the same block mask."""
        return self.step(self.init_state(log_mel.shape[0]), log_mel, lengths)[1]


def sinusoids(positions: int, dim: int) -> Tensor:
    """Whisper's position table, (positions, dim): sines, then cosines, wavelengths 1 to 10,000."""
    rates = torch.exp(torch.arange(dim // 2) * (-math.log(10_000) / (dim // 2 - 1)))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
