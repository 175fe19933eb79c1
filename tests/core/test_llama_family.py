"""Language models of the Llama family behind the live engine: the numbers and tokens of transformers and peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.tiny_hf import tiny_processor, tiny_wavllm
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.llama import Row
from wavllm_core.engine.load import Meter
from wavllm_core.engine.stock import stock

STRETCHED = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILY: dict[str, dict[str, Any]] = {
    "biased": {"attention_bias": True, "mlp_bias": True},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "llama3": {
        "rope_parameters": {"rope_type": "llama3", **STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    },
    "yarn": {"rope_parameters": {"rope_type": "yarn", **STRETCHED}},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 24, "attention_bias": True},
}
PROMPT, NEW = 90, 12  # tokens; longer than what the stretched ones were stretched from
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("kind", FAMILY)
def test_logits_and_tokens_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model, processor = tiny_wavllm(windows="unpadded", llm=FAMILY[kind]), tiny_processor(tmp_path, windows="unpadded")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if parameter.ndim == 1:  # biases, which begin as nothing, and norms, which begin as ones
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
            assert "bias" in name or "norm" in name or parameter.ndim > 1
        instruction = torch.tensor([processor.instruction_ids("be short")])
        ids = torch.randint(3, 300, (1, PROMPT), generator=draw)
        with model.gated_by(model.gate_for(instruction, torch.ones_like(instruction))):
            expected = model.llm(ids).logits[0]
            told = model.llm.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)[0, PROMPT:]
        language, _ = stock(model, processor)(EngineLimits(), lambda: 0.0, Meter())
        llama, gate, tokens = language.llama, language.gates.of("be short"), ids[0].tolist()
        store = llama.new_store(2)
        store.acquire()
        slot = store.acquire()
        parts = [llama.step(store, [Row(slot, list(part), None, gate)]) for part in (tokens[:70], tokens[70:])]
        torch.testing.assert_close(llama.logits(torch.cat(parts)), expected, **CLOSE)
        states, chosen = parts[-1], []
        for _ in range(NEW):
            logits = llama.logits(states[-1])
            logits[2] = -torch.inf  # as generate does to the end of a reply
            chosen.append(int(logits.argmax()))
            states = llama.step(store, [Row(slot, chosen[-1:], None, gate)])
        assert chosen == told.tolist()
