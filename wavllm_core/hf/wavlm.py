"""WavLM as released, base (group norm, post-norm) and large (layer norm, pre-norm), with fused attention.

Parameters have transformers' names, and states equal transformers' to float precision, at a fraction of its time:
there every layer materialises its attention weights. Padding is masked everywhere, in the group norm too, so that a
row of a batch equals the same audio alone. Bidirectional; see `acoustic.py` for the encoder that rolls.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import WavLMConfig

from wavllm_core.acoustic import position_gate, relative_buckets
from wavllm_core.adapter import inside
from wavllm_core.layers import BlockAttention


class ChannelNorm(nn.GroupNorm):
    """WavLM-base's first norm: each channel over the whole utterance."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def over(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(batch, channels, frames); `real`, (batch, frames), leaves padding out of the statistics."""
        if real is None:
            return self(x)
        weight = real[:, None].to(x.dtype)
        count = weight.sum(-1, keepdim=True)
        mean = (x * weight).sum(-1, keepdim=True) / count
        variance = ((x - mean).square() * weight).sum(-1, keepdim=True) / count
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]


class WaveformConv(nn.Module):
    """One strided convolution of the front end, with the norm that the configuration gives it."""

    def __init__(self, config: WavLMConfig, i: int) -> None:
        super().__init__()
        channels, out_channels = (1, *config.conv_dim)[i : i + 2]
        self.conv = nn.Conv1d(
            channels, out_channels, config.conv_kernel[i], config.conv_stride[i], bias=config.conv_bias
        )
        self.layer_norm: nn.Module | None = None
        if config.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(out_channels)
        elif i == 0:
            self.layer_norm = ChannelNorm(out_channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(batch, channels, frames) to fewer frames; `lengths`, (batch,), are the true ones after this convolution."""
        x = self.conv(x)
        if isinstance(self.layer_norm, ChannelNorm):
            x = self.layer_norm.over(x, None if lengths is None else inside(lengths, x.shape[-1]))
        elif self.layer_norm is not None:
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class FeatureEncoder(nn.Module):
    """All convolutions of the front end."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(WaveformConv(config, i) for i in range(len(config.conv_dim)))
        self.shapes = list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def forward(self, waveform: Tensor, samples: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, samples), (batch,) -> (batch, frames, channels), (batch,)."""
        x, lengths = waveform[:, None], samples
        for layer, (kernel, stride) in zip(self.conv_layers, self.shapes, strict=True):
            if lengths is not None:
                lengths = (lengths - kernel) // stride + 1
            x = layer(x, lengths)
        return x.transpose(1, 2), lengths


class FeatureProjection(nn.Module):
    """From the front end's channels to the width of the transformer."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) -> (batch, frames, dim)."""
        return self.projection(self.layer_norm(x))


class PositionalConv(nn.Module):
    """What the neighbourhood of a frame adds to it."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        groups = config.num_conv_pos_embedding_groups
        conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel, padding=kernel // 2, groups=groups)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) to the same; an even kernel's last output has no frame."""
        return F.gelu(self.conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)


class GatedAttention(BlockAttention):
    """Attention whose relative-position bias each query scales by its content."""

    def __init__(self, config: WavLMConfig, has_table: bool) -> None:
        super().__init__(config.hidden_size, config.num_attention_heads, key_bias=True)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(self.head_dim, 8)
        if has_table:  # the first layer's serves all
            self.rel_attn_embed = nn.Embedding(config.num_buckets, self.heads)

    def attend(self, x: Tensor, bias: Tensor, real: Tensor | None) -> Tensor:
        """(batch, frames, dim), (heads, frames, frames), (batch, frames) -> (batch, frames, dim)."""
        mask = position_gate(self.gru_rel_pos_linear(self.split(x)), self.gru_rel_pos_const) * bias
        if real is not None:
            mask = mask.masked_fill(~real[:, None, None], -torch.inf)
        return self(x, mask)


class FeedForward(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same."""
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class WavLMLayer(nn.Module):
    """Attention and feed-forward, normalised after (base) or before (large)."""

    def __init__(self, config: WavLMConfig, has_table: bool) -> None:
        super().__init__()
        self.attention = GatedAttention(config, has_table)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pre_norm = config.do_stable_layer_norm

    def forward(self, x: Tensor, bias: Tensor, real: Tensor | None) -> Tensor:
        """(batch, frames, dim) to the same; the other arguments as for `GatedAttention.attend`."""
        if self.pre_norm:
            x = x + self.attention.attend(self.layer_norm(x), bias, real)
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.attention.attend(x, bias, real))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """The transformer, and the convolution that tells it positions."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(WavLMLayer(config, i == 0) for i in range(config.num_hidden_layers))
        self.buckets, self.max_distance = config.num_buckets, config.max_bucket_distance
        self.pre_norm = config.do_stable_layer_norm

    def forward(self, x: Tensor, real: Tensor | None) -> list[Tensor]:
        """(batch, frames, dim), (batch, frames) -> the states that `WavLM` returns."""
        if real is not None:
            x = x * real[..., None]
        x = x + self.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.layer_norm(x)
        place = torch.arange(x.shape[1], device=x.device)
        bucket = relative_buckets(place[None] - place[:, None], self.buckets, self.max_distance)
        bias = self.layers[0].attention.rel_attn_embed(bucket).permute(2, 0, 1)
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], bias, real))
        if self.pre_norm:
            states[-1] = self.layer_norm(states[-1])  # as transformers 4 had it, the version of the release
        return states


class WavLM(nn.Module):
    """Waveform to the states of every layer. Without dropout, layer drop and masking: WavLLM keeps it frozen."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        if (config.hidden_act, config.feat_extract_activation) != ("gelu", "gelu"):
            raise ValueError("acoustic_config: only hidden_act and feat_extract_activation gelu")
        self.masked_spec_embed = nn.Parameter(torch.zeros(config.hidden_size))  # of the checkpoint; not used
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)

    def forward(self, waveform: Tensor, samples: Tensor | None = None) -> tuple[list[Tensor], Tensor | None]:
        """Whole utterances.

        waveform: (batch, samples), normalised where the checkpoint's preprocessor says so
        samples: (batch,) true lengths of padded rows; None: nothing is masked
        returns: the embedding's and each layer's states, (batch, frames, dim) each; (batch,) true frames
        """
        x, lengths = self.feature_extractor(waveform, samples)
        real = None if lengths is None else inside(lengths, x.shape[1])
        return self.encoder(self.feature_projection(x), real), lengths
