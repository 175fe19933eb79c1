"""Whisper's encoder as released, for windows of any length: transformers' own refuses all but 30 s.

Parameters have transformers' names. Bidirectional: nothing here rolls; see `semantic.py` for the encoder that does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig

from wavllm_core.adapter import inside
from wavllm_core.config import TransformerConfig
from wavllm_core.semantic import SemanticLayer


class WhisperEncoder(nn.Module):
    """Log-mel to states. Without dropout and layer drop: WavLLM keeps its encoders frozen."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        if config.activation_function != "gelu" or config.scale_embedding:
            raise ValueError("semantic_config: only encoders with activation_function gelu and unscaled embeddings")
        dim = config.d_model
        shape = TransformerConfig(dim, config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim)
        self.conv1 = nn.Conv1d(config.num_mel_bins, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, dim)
        self.layers = nn.ModuleList(SemanticLayer(shape) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, log_mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """One window a row.

        log_mel: (batch, mels, mel frames), at most 2 * `max_source_positions` of them
        lengths: (batch,) true mel frames of padded rows; None: all frames are heard, silence included
        returns: (batch, (mel frames + 1) // 2, dim)
        """
        x = F.gelu(self.conv1(log_mel))
        mask = None
        if lengths is not None:
            x = x * inside(lengths, x.shape[-1])[:, None]
            mask = inside((lengths + 1) // 2, (x.shape[-1] + 1) // 2)[:, None, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x)
