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

    def __init__(self, dim: int, config: LoraConfig, width: int | None = None) -> None:
        """`width` channels of gate, one for each of the language model's if not given."""
        super().__init__()
        width = width or dim
        self.gate_max = config.gate_max
        self.fc_1 = nn.Linear(dim, config.gate_dim)
        self.fc_2 = nn.Linear(config.gate_dim, width)
        self.attention = nn.Linear(width, 1)
        nn.init.ones_(self.fc_2.bias)  # s starts near 1: plain LoRA

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim), (batch, tokens) True for real tokens -> (batch, width)."""
        z = self.fc_2(F.gelu(self.fc_1(states)))
        scores = self.attention(z).squeeze(-1).masked_fill(~mask, -torch.inf)
        pooled = (scores.softmax(-1)[..., None] * z).sum(1)
        return pooled.relu().clamp(max=self.gate_max)


def gate_statistics(gate: Tensor, gate_max: float) -> dict[str, float]:
    """What a log should say of gates, (..., width): their mean, and the shares of channels shut and fully open."""
    return {
        "gate_mean": gate.mean().item(),
        "gate_shut": (gate <= 0).float().mean().item(),
        "gate_full": (gate >= gate_max).float().mean().item(),
    }
