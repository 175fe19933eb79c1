"""The server's language model against transformers and peft: same weights, same numbers, in any chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine.decoder import Decoder
from wavllm_core.engine.llama import KeyValueCache, LiveLlama, LlamaShape
from wavllm_core.lora import gated

MODEL = tiny_model()
SHAPE = LlamaShape.of(MODEL.config)
LLAMA = LiveLlama(SHAPE, dict(MODEL.state_dict()), MODEL.config.max_context)
INPUTS = torch.randn(19, 32, generator=torch.Generator().manual_seed(0))
GATE = torch.rand(32, generator=torch.Generator().manual_seed(1)) * 3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def reference(gate: torch.Tensor | None) -> torch.Tensor:
    """Logits of every position, (positions, vocabulary), by the two libraries."""
    llama = MODEL.llm.get_base_model()
    if gate is None:
        with MODEL.llm.disable_adapter():
            return llama(inputs_embeds=INPUTS[None], use_cache=False).logits[0]
    with gated(MODEL.llm, gate[None]):
        return llama(inputs_embeds=INPUTS[None], use_cache=False).logits[0]


@pytest.mark.parametrize("gate", [None, GATE, torch.zeros(32)])
def test_logits_are_those_of_transformers_and_peft(gate: torch.Tensor | None) -> None:
    states = LLAMA.states(INPUTS, KeyValueCache(SHAPE, 19), gate)
    torch.testing.assert_close(LLAMA.logits(states), reference(gate), **CLOSE)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) <= 19))
def test_prefill_in_chunks_equals_one_pass(sizes: list[int]) -> None:
    whole = LLAMA.states(INPUTS[: sum(sizes)], KeyValueCache(SHAPE, 19), GATE)
    cache = KeyValueCache(SHAPE, 19)
    parts = [LLAMA.states(chunk, cache, GATE) for chunk in INPUTS[: sum(sizes)].split(sizes)]
    torch.testing.assert_close(torch.cat(parts), whole, **CLOSE)
    assert cache.length == sum(sizes)


def test_truncation_undoes_what_came_after() -> None:
    cache = KeyValueCache(SHAPE, 19)
    LLAMA.states(INPUTS[:10], cache, GATE)
    LLAMA.states(INPUTS[12:], cache, GATE)
    cache.truncate(10)
    again = LLAMA.states(INPUTS[10:], cache, GATE)
    whole = LLAMA.states(INPUTS, KeyValueCache(SHAPE, 19), GATE)
    torch.testing.assert_close(again, whole[10:], **CLOSE)
    with pytest.raises(ValueError, match="20 positions; the cache holds 19"):
        cache.truncate(20)


def test_the_gate_of_an_instruction_is_that_of_the_whole_model(tmp_path: Path) -> None:
    decoder = Decoder(tiny_checkpoint(tmp_path))
    ids = decoder.template.gate_ids("be short")
    torch.testing.assert_close(decoder.gate("be short"), MODEL.gate_for([ids])[0], rtol=1e-5, atol=1e-5)


def test_grouped_query_attention_is_refused_by_name() -> None:
    import dataclasses

    config = dataclasses.replace(MODEL.config, llama=MODEL.config.llama | {"num_key_value_heads": 1})
    with pytest.raises(ValueError, match="num_key_value_heads"):
        LlamaShape.of(config)
