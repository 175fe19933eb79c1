"""The prompt-aware gate: what is asked decides how much LoRA changes the language model.

Source: WavLLM, "prompt-aware LoRA weight adapter". The gate folds into `lora_B` exactly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.config import LoraConfig


class PromptGate(nn.Module):
    """From the language model's states over an instruction to the gate s in [0, gate_max]."""

    def __init__(self, dim: int, config: LoraConfig) -> None:
        super().__init__()
        self.gate_max = config.gate_max
        self.fc_1 = nn.Linear(dim, config.gate_dim)
        self.fc_2 = nn.Linear(config.gate_dim, dim)
        self.attention = nn.Linear(dim, 1)
        nn.init.ones_(self.fc_2.bias)  # s starts near 1: plain LoRA

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim), (batch, tokens) True for real tokens -> (batch, dim)."""
        z = self.fc_2(F.gelu(self.fc_1(states)))
        scores = self.attention(z).squeeze(-1).masked_fill(~mask, -torch.inf)
        pooled = (scores.softmax(-1)[..., None] * z).sum(1)
        return pooled.relu().clamp(max=self.gate_max)
