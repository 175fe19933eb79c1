"""LoRA in peft's own files: saved, loaded, and with the gate of one instruction folded in.

The gate scales the columns that LoRA writes to, so `x A B * s` is `x A (B diag s)`: for one instruction a gated
model is a plain adapter, which any engine that serves peft adapters can run.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavllm_core.errors import CheckpointError
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.lora import ADAPTER, peft_config

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in an adapter file


def save_lora(model: WavLLMForConditionalGeneration, out: Path) -> None:
    """Write the LoRA of `model` as `peft` would: adapter_config.json and adapter_model.safetensors."""
    _write(model, get_peft_model_state_dict(model.llm, adapter_name=ADAPTER), out, model.config.lora_alpha)


def load_lora(model: WavLLMForConditionalGeneration, folder: Path) -> None:
    """Take LoRA from a peft adapter for the same language model.

    Raises CheckpointError for files that are missing, damaged, or of another rank or other projections.
    """
    try:
        config = PeftLoraConfig.from_pretrained(str(folder))
        tensors = load_file(str(folder / WEIGHTS))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no peft adapter: {error}") from error
    if config.r != model.config.lora_rank:
        raise CheckpointError(f"{folder}: r {config.r}; the model has {model.config.lora_rank}")
    wanted = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER)
    given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    wrong = [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    wrong += [f"unexpected {name}" for name in sorted(given.keys() - wanted.keys())]
    both = sorted(wanted.keys() & given.keys())
    wrong += [
        f"{n}: {tuple(given[n].shape)}, not {tuple(wanted[n].shape)}" for n in both if given[n].shape != wanted[n].shape
    ]
    if wrong:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit: {'; '.join(wrong)}")
    set_peft_model_state_dict(model.llm, given, adapter_name=ADAPTER)


@torch.no_grad()
def export_lora(model: WavLLMForConditionalGeneration, instruction_ids: list[int], out: Path) -> Tensor:
    """Write a plain peft adapter that answers one instruction as the gated model does; returns the gate, (width,).

    instruction_ids: of the instruction in double quotes, see `WavLLMProcessor.instruction_ids`
    Raises CheckpointError for a model without a gate, whose LoRA is plain already.
    """
    gate = model.gate_for(torch.tensor([instruction_ids], device=model.device))
    if gate is None:
        raise CheckpointError("use_gate: this model has no gate to fold in")
    _, views = model.gate_views()
    tensors = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER)
    for name, tensor in tensors.items():
        if ".lora_B" in name:
            projection = name.split(".lora_B")[0].rpartition(".")[2]
            tensors[name] = tensor * gate[0, views[projection].to(gate.device), None].to(tensor.dtype)
    _write(model, tensors, out, model.config.lora_rank)  # the gate stands in place of alpha / rank
    return gate[0]


def _write(model: WavLLMForConditionalGeneration, tensors: dict[str, Tensor], out: Path, alpha: int) -> None:
    config = peft_config(model.config.lora)
    config.lora_alpha, config.inference_mode = alpha, True
    config.save_pretrained(str(out))
    named = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(named, str(out / WEIGHTS), metadata={"format": "pt"})
