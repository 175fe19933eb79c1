"""Adapter files: peft reads ours, we read peft's, and a folded gate answers as the gated model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.core.tiny_hf import tiny_processor, tiny_wavllm
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.adapters import WEIGHTS, export_lora, load_lora, save_lora
from wavllm_core.hf.model import WavLLMForConditionalGeneration

INPUTS = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def base_of(model: WavLLMForConditionalGeneration) -> PreTrainedModel:
    """The same language model without LoRA, as another engine would load it."""
    base = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    tensors = {n.replace(".base_layer", ""): v for n, v in model.llm.state_dict().items() if ".lora_" not in n}
    base.load_state_dict(tensors)
    return base


@pytest.mark.parametrize("order", ["split", "interleaved"])
def test_a_folded_gate_answers_as_the_gated_model(tmp_path: Path, order: str) -> None:
    model = tiny_wavllm(gate_order=order)
    ids = tiny_processor(tmp_path / "words").instruction_ids("be short")
    gate = export_lora(model, ids, tmp_path / "out")
    assert gate.std() > 0.01
    plain = PeftModel.from_pretrained(base_of(model), str(tmp_path / "out")).eval()
    options = {"inputs_embeds": INPUTS, "attention_mask": torch.ones(1, 9), "max_new_tokens": 12, "do_sample": False}
    with model.gated_by(gate[None]), torch.no_grad():
        gated_tokens = model.llm.generate(**options)
        gated_logits = model.llm(inputs_embeds=INPUTS).logits
    with torch.no_grad():
        torch.testing.assert_close(plain(inputs_embeds=INPUTS).logits, gated_logits, **CLOSE)
    assert plain.generate(**options).tolist() == gated_tokens.tolist()
    with torch.no_grad():
        assert not torch.allclose(model.llm(inputs_embeds=INPUTS).logits, gated_logits, atol=1e-2)


def test_lora_goes_to_peft_and_back(tmp_path: Path) -> None:
    model = tiny_wavllm(use_gate=False)
    save_lora(model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(base_of(model), str(tmp_path / "ours")).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(inputs_embeds=INPUTS).logits, model.llm(inputs_embeds=INPUTS).logits, **CLOSE)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    other = tiny_wavllm(use_gate=False)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if ".lora_" in name:
                parameter.zero_()
    load_lora(other, tmp_path / "theirs")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = tiny_wavllm()
    with pytest.raises(CheckpointError, match="nowhere: no peft adapter"):
        load_lora(model, tmp_path / "nowhere")
    save_lora(tiny_wavllm(lora_rank=2), tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="narrow: r 2; the model has 4"):
        load_lora(model, tmp_path / "narrow")
    save_lora(model, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / WEIGHTS)
    name = next(name for name in tensors if name.endswith("layers.0.self_attn.q_proj.lora_A.weight"))
    tensors["stranger"] = tensors.pop(name)
    save_file(tensors, tmp_path / "other" / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.0.*q_proj.*unexpected stranger"):
        load_lora(model, tmp_path / "other")
    (tmp_path / "other" / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="other: no peft adapter"):
        load_lora(model, tmp_path / "other")
    with pytest.raises(CheckpointError, match="use_gate: this model has no gate"):
        export_lora(tiny_wavllm(use_gate=False), [5], tmp_path / "out")


def test_an_exported_adapter_says_what_it_is(tmp_path: Path) -> None:
    model = tiny_wavllm()
    export_lora(model, [5, 6], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (
        4,
        4,
        ["k_proj", "o_proj", "q_proj", "v_proj"],
    )
