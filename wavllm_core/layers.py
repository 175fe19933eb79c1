"""Streaming building blocks: causal convolution, and attention over blocks with cached keys and values.

Modules hold weights; streams hold state. A block of frames sees itself and a bounded number of earlier
blocks, so one long pass under the same mask (`forward`) equals any sequence of `step`s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvState:
    """What a causal convolution remembers between chunks."""

    tail: Tensor  # (batch, channels, kernel - stride)


class CausalConv1d(nn.Module):
    """A convolution over time that never looks ahead: one output per `stride` frames."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, kernel, stride, groups=groups, bias=bias)
        self.stride = stride
        self.overlap = kernel - stride

    def init_state(self, batch: int) -> ConvState:
        """Zeros before the first frame."""
        return ConvState(self.conv.weight.new_zeros(batch, self.conv.in_channels, self.overlap))

    def step(self, state: ConvState, chunk: Tensor) -> tuple[ConvState, Tensor]:
        """Advance by one chunk; `state` is left as it was.

        chunk: (batch, channels, frames), frames a multiple of the stride
        returns: the next state, and (batch, out_channels, frames / stride)
        """
        window = torch.cat([state.tail, chunk], dim=-1)
        tail = window[..., window.shape[-1] - self.overlap :]
        return ConvState(tail), self.conv(window)

    def forward(self, frames: Tensor) -> Tensor:
        """One long chunk from the initial state."""
        return self.conv(F.pad(frames, (self.overlap, 0)))


@dataclass(frozen=True)
class Blocks:
    """Which frames see which, for one chunk of whole blocks (only the last block may be short)."""

    mask: Tensor  # (batch, 1, frames, keys), True where a frame sees a key
    distance: Tensor  # (frames, keys), key position minus query position


def block_layout(
    frames: int, cached: int, block_frames: int, left_blocks: int, lengths: Tensor | None = None
) -> Blocks:
    """The blocks of a chunk that follows `cached` frames, `cached` a multiple of the block.

    lengths: (batch,) true frames of each row of a padded batch, counted from the start of the chunk
    """
    device = lengths.device if lengths is not None else None
    query = torch.arange(frames, device=device)
    key = torch.arange(-cached, frames, device=device)
    behind = torch.div(query[:, None], block_frames, rounding_mode="floor") - torch.div(
        key[None, :], block_frames, rounding_mode="floor"
    )
    mask = ((behind >= 0) & (behind <= left_blocks))[None, None]
    if lengths is not None:
        # Padding past the end is never seen by real frames; padded rows see themselves, to stay finite.
        real = key[None, :] < lengths[:, None]
        mask = mask & (real[:, None, None, :] | (query[:, None] == key[None, :]))
    return Blocks(mask, key[None, :] - query[:, None])


@dataclass(frozen=True)
class AttentionState:
    """Keys and values of the blocks that later frames may still see."""

    keys: Tensor  # (batch, heads, cached, head_dim)
    values: Tensor  # (batch, heads, cached, head_dim)


class BlockAttention(nn.Module):
    """Multi-head self-attention under a block mask. As in Whisper, `k_proj` may go without a bias."""

    def __init__(self, dim: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: {dim} channels cannot be split into {heads} heads")
        self.heads = heads
        self.head_dim = dim // heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=key_bias)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def init_state(self, batch: int) -> AttentionState:
        """Nothing seen yet."""
        empty = self.q_proj.weight.new_zeros(batch, self.heads, 0, self.head_dim)
        return AttentionState(empty, empty)

    def split(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) -> (batch, heads, frames, head_dim)."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def step(self, state: AttentionState, x: Tensor, mask: Tensor, keep_frames: int) -> tuple[AttentionState, Tensor]:
        """Attend from a chunk to what is cached and to the chunk itself.

        x: (batch, frames, dim)
        mask: (batch, 1 or heads, frames, cached + frames), bool, or float to be added to the scores
        returns: the state with the last `keep_frames` keys and values, and (batch, frames, dim)
        """
        keys = torch.cat([state.keys, self.split(self.k_proj(x))], dim=2)
        values = torch.cat([state.values, self.split(self.v_proj(x))], dim=2)
        kept = AttentionState(keys[:, :, -keep_frames:], values[:, :, -keep_frames:])
        return kept, self._attended(x, keys, values, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One chunk that nothing precedes and nothing follows."""
        return self._attended(x, self.split(self.k_proj(x)), self.split(self.v_proj(x)), mask)

    def _attended(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(keys.dtype)
        attended = F.scaled_dot_product_attention(self.split(self.q_proj(x)), keys, values, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
