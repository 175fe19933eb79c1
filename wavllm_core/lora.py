"""LoRA through peft, scaled by the prompt-aware gate: one vector per row on the output of every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
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
