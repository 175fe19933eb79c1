"""LoRA through peft, scaled by the prompt-aware gate on the output of every adapter.

The gate is one vector a row, or one a position. Projections of one width share its channels; where grouped-query
attention makes keys and values narrower, those have channels of their own: `gate_views`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from wavllm_core.config import LoraConfig

ADAPTER = "default"  # peft's name for the only adapter
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def peft_config(config: LoraConfig) -> PeftLoraConfig:
    """LoRA on q, k, v and o of every layer, as peft describes it."""
    return PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )


def add_lora(llm: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Wrap a causal language model so that q, k, v and o of every layer have LoRA."""
    return get_peft_model(llm, peft_config(config))


def inject_lora(llm: PreTrainedModel, config: LoraConfig, published_init: bool) -> None:
    """The same inside the model, without a wrapper.

    `published_init` draws A as wide as the released code does: it takes the rank for the number of inputs.
    """
    inject_adapter_in_model(peft_config(config), llm, adapter_name=ADAPTER)
    for _, layer in lora_layers(llm):
        if published_init:
            bound = 1 / math.sqrt(config.rank)
            nn.init.uniform_(layer.lora_A[ADAPTER].weight, -bound, bound)


def lora_layers(model: nn.Module) -> list[tuple[str, LoraLayer]]:
    """Every projection that has LoRA, with its name: q_proj, k_proj, v_proj or o_proj."""
    named = ((name.rpartition(".")[2], module) for name, module in model.named_modules())
    return [(name, module) for name, module in named if isinstance(module, LoraLayer)]


def gate_views(model: nn.Module, head_dim: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """How many channels the gate has, and which of them each projection's output takes, by name.

    head_dim: given where the gate stands in Meta's order of rotary channels, in which pairs lie side by side,
        while transformers has them half a head apart: queries and keys then take them in that order
    Raises ValueError where the layers of a model differ in width.
    """
    widths: dict[str, int] = {}
    for name, layer in lora_layers(model):
        if widths.setdefault(name, layer.out_features) != layer.out_features:
            raise ValueError(f"{name}: {widths[name]} and {layer.out_features} channels in one language model")
    starts: dict[int, int] = {}
    total = 0
    for width in widths.values():
        if width not in starts:
            starts[width] = total
            total += width
    views = {}
    for name, width in widths.items():
        order = torch.arange(width, device="cpu")
        if head_dim is not None and name in ("q_proj", "k_proj"):
            order = halves_from_pairs(order, head_dim)
        views[name] = starts[width] + order
    return total, views


def halves_from_pairs(channels: Tensor, head_dim: int) -> Tensor:
    """Rotary channels in Meta's order, (heads * head_dim, ...), in the order that transformers has them."""
    return channels.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


@contextmanager
def gated(model: nn.Module, gate: Tensor, views: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Scale the output of every LoRA layer by its channels of `gate` while inside.

    gate: (batch, width), or (batch, positions, width) for a gate that changes along the sequence
    views: from `gate_views`; None where every projection takes all channels as they stand

    peft multiplies a layer's output by `scaling`; a tensor there is a gate per row and channel.
    """
    rows = gate if gate.ndim == 3 else gate[:, None]
    layers = lora_layers(model)
    before = [layer.scaling[ADAPTER] for _, layer in layers]
    taken = {name: rows if views is None else rows[..., views[name].to(gate.device)] for name, _ in layers}
    try:
        for name, layer in layers:
            layer.scaling[ADAPTER] = taken[name]
        yield
    finally:
        for (_, layer), scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER] = scaling


@contextmanager
def lora_off(model: nn.Module) -> Iterator[None]:
    """The base model alone while inside. peft's own switch would also thaw adapters that are frozen."""
    layers = [layer for _, layer in lora_layers(model)]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
