"""The server's language model against transformers and peft: same weights, same numbers, in any chunks and company."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine.decoder import Decoder
from wavllm_core.engine.kv import KeyValueStore, Slot
from wavllm_core.engine.llama import LiveLlama, Row
from wavllm_core.engine.llama_shape import LlamaShape
from wavllm_core.errors import CapacityError, CheckpointError
from wavllm_core.lora import gated
from wavllm_core.model import RollingWavLLM

MODEL = tiny_model()
SHAPE = LlamaShape.of(MODEL.config.llama, MODEL.config.lora.rank)
LLAMA = LiveLlama(SHAPE, dict(MODEL.state_dict()), max_positions=24)
INPUTS = torch.randn(19, 32, generator=torch.Generator().manual_seed(0))
GATE = torch.rand(32, generator=torch.Generator().manual_seed(1)) * 3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PRECISE = LiveLlama(SHAPE, dict(MODEL.state_dict()), max_positions=24, dtype=torch.float64)  # rounding hides nothing
PRECISELY = {"rtol": 1e-10, "atol": 1e-10}


def row(slot: Slot, inputs: Tensor, gate: Tensor | None = GATE) -> Row:
    return Row(slot, [0] * len(inputs), inputs, None if gate is None else gate.repeat(4))


def run(inputs: Tensor, gate: Tensor | None = GATE, llama: LiveLlama = LLAMA) -> Tensor:
    store = llama.new_store(1)
    return llama.step(store, [row(store.acquire(), inputs, gate)])


def reference(gate: torch.Tensor | None) -> torch.Tensor:
    """Logits of every position, (positions, vocabulary), by the two libraries."""
    llama = MODEL.llm.get_base_model()
    if gate is None:
        with MODEL.llm.disable_adapter():
            return llama(inputs_embeds=INPUTS[None], use_cache=False).logits[0]
    with gated(MODEL.llm, gate[None]):
        return llama(inputs_embeds=INPUTS[None], use_cache=False).logits[0]


@pytest.mark.parametrize("gate", [None, GATE, torch.zeros(32)])
def test_logits_are_those_of_transformers_and_peft(gate: Tensor | None) -> None:
    torch.testing.assert_close(LLAMA.logits(run(INPUTS, gate)), reference(gate), **CLOSE)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_query_attention_is_that_of_transformers(kv_heads: int) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    config = dataclasses.replace(MODEL.config, llama=MODEL.config.llama | heads)
    with torch.random.fork_rng():
        torch.manual_seed(kv_heads)
        model = RollingWavLLM(config).eval().requires_grad_(False)
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name or "_proj" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    llama = LiveLlama(LlamaShape.of(config.llama, config.lora.rank), dict(model.state_dict()), max_positions=24)
    store = llama.new_store(1)
    slot = store.acquire()
    plain_lora = torch.ones(sum(llama.shape.widths.values()))
    parts = [llama.step(store, [Row(slot, [0] * len(x), x, plain_lora)]) for x in INPUTS.split([7, 1, 11])]
    expected = model.llm(inputs_embeds=INPUTS[None], use_cache=False).logits[0]
    torch.testing.assert_close(llama.logits(torch.cat(parts)), expected, **CLOSE)


def test_a_gate_for_grouped_queries_is_refused_by_name(tmp_path: Path) -> None:
    good = tiny_checkpoint(tmp_path)
    config = dataclasses.replace(good.config, llama=good.config.llama | {"num_key_value_heads": 1})
    with pytest.raises(CheckpointError, match="num_key_value_heads"):
        Decoder(dataclasses.replace(good, config=config))
    config = dataclasses.replace(config, llama=config.llama | {"num_attention_heads": 4, "num_key_value_heads": 3})
    with pytest.raises(ValueError, match="4 heads cannot share 3"):
        LlamaShape.of(config.llama, config.lora.rank)


def test_stretched_positions_of_a_rolling_model_are_refused_by_name(tmp_path: Path) -> None:
    good = tiny_checkpoint(tmp_path)
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}
    config = dataclasses.replace(good.config, llama=good.config.llama | rope)
    with pytest.raises(CheckpointError, match="rope_type: 'linear'"):
        Decoder(dataclasses.replace(good, config=config))


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) <= 19))
def test_prefill_in_chunks_equals_one_pass(sizes: list[int]) -> None:
    store, inputs, gate = PRECISE.new_store(1), INPUTS[: sum(sizes)].double(), GATE.double()
    slot = store.acquire()
    parts = [PRECISE.step(store, [row(slot, chunk, gate)]) for chunk in inputs.split(sizes)]
    torch.testing.assert_close(torch.cat(parts), run(inputs, gate, PRECISE), **PRECISELY)
    assert len(slot.keys) == sum(sizes)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_strangers_in_one_step_equal_each_alone(data: st.DataObject) -> None:
    """Rows of any lengths, at any positions, with gates of their own or none."""
    store, inputs, gates = PRECISE.new_store(4), INPUTS.double(), [None, GATE.double(), GATE.double() / 2]
    rows, expected = [], []
    for gate in data.draw(st.lists(st.sampled_from(gates), min_size=1, max_size=4)):
        start, count = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 9))
        slot = store.acquire()
        if start:
            PRECISE.step(store, [row(slot, inputs[:start], gate)])
        rows.append(row(slot, inputs[start : start + count], gate))
        expected.append(run(inputs[: start + count], gate, PRECISE)[start:])
    torch.testing.assert_close(PRECISE.step(store, rows), torch.cat(expected), **PRECISELY)


def test_truncation_undoes_what_came_after() -> None:
    store = LLAMA.new_store(1)
    slot = store.acquire()
    gate = GATE.repeat(4)
    LLAMA.step(store, [Row(slot, list(range(10)), INPUTS[:10], gate)])
    LLAMA.step(store, [Row(slot, [-1, -2, 12], INPUTS[12:15], gate)])
    assert slot.keep_common([*range(10), -1, 7, 12], gate=None) == 11
    assert slot.keep_common([*range(10), 7], gate=None) == 10
    again = LLAMA.step(store, [row(slot, INPUTS[10:])])
    torch.testing.assert_close(again, run(INPUTS)[10:], **CLOSE)
    assert slot.keep_common(slot.keys, gate="another instruction") == 0


def test_a_step_that_cannot_be_done_leaves_everything_as_it_was() -> None:
    store = LLAMA.new_store(2)
    first, second = store.acquire(), store.acquire()
    with pytest.raises(ValueError, match="25 positions; a slot holds 24"):
        LLAMA.step(store, [row(first, INPUTS[:3]), row(second, torch.zeros(25, 32))])
    assert first.keys == second.keys == []


def test_a_full_store_refuses_and_takes_in_again() -> None:
    store = KeyValueStore(slots=2, layers=1, heads=1, positions=4, head_dim=2)
    first, _ = store.acquire(), store.acquire()
    with pytest.raises(CapacityError, match="all 2 conversations"):
        store.acquire()
    first.keys += [1, 2]
    assert (store.held, store.filled) == (2, 2)
    store.release(first)
    with pytest.raises(ValueError, match="not held"):
        store.release(first)
    again = store.acquire()
    assert (again.index, again.keys, store.held) == (first.index, [], 2)


def test_the_gate_of_an_instruction_is_that_of_the_whole_model(tmp_path: Path) -> None:
    language = Decoder(tiny_checkpoint(tmp_path)).language
    expected = MODEL.gate_for([language.planner.prompts.gate_ids("be short")])[0]
    torch.testing.assert_close(language.gates.of("be short"), expected.repeat(4), rtol=1e-5, atol=1e-5)
