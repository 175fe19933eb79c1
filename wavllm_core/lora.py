"""LoRA through peft, and the prompt-aware gate: one vector per utterance on the output of every adapter.

Source: WavLLM section 3 ("prompt-aware LoRA weight adapter"); the gate folds into `lora_B` exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from wavllm_core.config import LoraConfig

ADAPTER = "default"  # peft's name for the only adapter
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def add_lora(llm: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Wrap a causal language model so that q, k, v and o of every layer have LoRA."""
    peft_config = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(llm, peft_config)


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


@contextmanager
def gated(model: PeftModel, gate: Tensor) -> Iterator[None]:
    """Scale the output of every LoRA layer by `gate`, (batch, dim), while inside.

    peft multiplies a layer's output by `scaling`; a tensor there is a gate per row and channel.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [layer.scaling[ADAPTER] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[ADAPTER] = gate[:, None]
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER] = scaling
