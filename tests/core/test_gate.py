"""The prompt-aware gate: where it acts, what it reads, and that it folds into plain LoRA."""

from __future__ import annotations

import torch
from peft.tuners.lora import LoraLayer

from tests.core.tiny import tiny_model
from wavllm_core.lora import ADAPTER, gated

MODEL = tiny_model()
INPUTS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))


def logits(inputs: torch.Tensor) -> torch.Tensor:
    return MODEL.llm.get_base_model()(inputs_embeds=inputs, use_cache=False).logits


def test_a_gate_of_zero_switches_lora_off() -> None:
    with gated(MODEL.llm, torch.zeros(2, 32)):
        off = logits(INPUTS)
    with MODEL.llm.disable_adapter():
        base = logits(INPUTS)
    torch.testing.assert_close(off, base)
    assert (logits(INPUTS) - base).abs().max() > 1e-3  # and LoRA does something


def test_each_row_has_its_own_gate() -> None:
    gates = torch.rand(2, 32, generator=torch.Generator().manual_seed(1)) * 3
    with gated(MODEL.llm, gates):
        together = logits(INPUTS)
    for row in range(2):
        with gated(MODEL.llm, gates[row : row + 1]):
            torch.testing.assert_close(together[row : row + 1], logits(INPUTS[row : row + 1]), rtol=1e-5, atol=1e-5)


def test_a_gate_folds_exactly_into_lora_b() -> None:
    gate = torch.rand(1, 32, generator=torch.Generator().manual_seed(2)) * 3
    with gated(MODEL.llm, gate):
        wanted = logits(INPUTS)
    layers = [module for module in MODEL.llm.requires_grad_(False).modules() if isinstance(module, LoraLayer)]
    kept = [layer.lora_B[ADAPTER].weight.clone() for layer in layers]
    try:
        for layer in layers:
            layer.lora_B[ADAPTER].weight.mul_(gate[0, :, None] / layer.scaling[ADAPTER])
        torch.testing.assert_close(logits(INPUTS), wanted, rtol=1e-4, atol=1e-4)
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.lora_B[ADAPTER].weight.copy_(weight)


def test_scaling_is_restored_after_an_error() -> None:
    layers = [module for module in MODEL.llm.modules() if isinstance(module, LoraLayer)]
    try:
        with gated(MODEL.llm, torch.ones(1, 32)):
            raise RuntimeError("inside")
    except RuntimeError:
        pass
    assert all(layer.scaling[ADAPTER] == 1.0 for layer in layers)


def test_the_gate_of_an_instruction_ignores_padding_and_stays_in_range() -> None:
    short, long = [5, 9], [7, 3, 8, 2, 4]
    together = MODEL.gate_for([short, long])
    torch.testing.assert_close(together[:1], MODEL.gate_for([short]), rtol=1e-5, atol=1e-5)
    assert together.min() >= 0 and together.max() <= MODEL.config.lora.gate_max
    assert (together[0] - together[1]).abs().max() > 1e-4  # it does read the instruction
