"""Decode steps of fixed shapes, as a GPU replays them, run on the CPU: padding changes nothing, tokens are the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from tests.core.test_engine import SHORT, alone, hear, noise, words
from tests.core.test_llama import CLOSE, GATE, INPUTS, LLAMA, SHAPE, run
from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine import decoding as module
from wavllm_core.engine.api import Exchange
from wavllm_core.engine.core import rolling
from wavllm_core.engine.decoding import Decoding
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.llama import LiveLlama, Row

GATES = [GATE.repeat(4), None, GATE.repeat(4) / 2, GATE.repeat(4), None]


@pytest.mark.parametrize("kept", [2, 3, 5])
def test_padded_rows_at_all_lengths_equal_each_alone(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows wait at different lengths, on both sides of a bucket's; nobody else's positions change."""
    monkeypatch.setattr(module, "SHORTEST", 6)
    store = LLAMA.new_store(6)
    store.tensor.fill_(torch.nan)  # what a failed reply leaves must not reach others
    slots = [store.acquire() for _ in range(6)]
    starts = [1, 5, 6, 11, 17, 19]
    for slot, start, gate in zip(slots, starts, [*GATES, None], strict=True):
        LLAMA.step(store, [Row(slot, list(range(start)), INPUTS[:start], gate)])
    decoding, before = Decoding(LLAMA, store, rows=(2, 4, 8)), store.tensor.clone()
    assert decoding.lengths == [6, 12, 24]
    rows = [Row(slot, [7 + i], None, gate) for i, (slot, gate) in enumerate(zip(slots, GATES, strict=False))][:kept]
    states = decoding.step(rows)
    for i, (state, start) in enumerate(zip(states, starts, strict=False)):
        token = LLAMA.embed([7 + i])
        gate = GATES[i]
        expected = run(torch.cat([INPUTS[:start], token]), None if gate is None else gate[: SHAPE.dim])[-1]
        torch.testing.assert_close(state, expected, **CLOSE)
        assert slots[i].keys == [*range(start), 7 + i]
        before[i, :, :, :, start] = store.tensor[i, :, :, :, start]
    torch.testing.assert_close(store.tensor, before, rtol=0, atol=0, equal_nan=True)


def test_what_does_not_fit_leaves_everything_as_it_was() -> None:
    store = LLAMA.new_store(3)
    slots, decoding = [store.acquire() for _ in range(3)], Decoding(LLAMA, store, rows=(1, 2))
    with pytest.raises(ValueError, match="3 rows; at most 2"):
        decoding.step([Row(slot, [1], None, None) for slot in slots])
    slots[0].append([0] * store.positions)
    with pytest.raises(ValueError, match="25 positions; a slot holds 24"):
        decoding.step([Row(slot, [1], None, None) for slot in slots[:2]])
    assert slots[1].keys == []


def test_grouped_queries_are_decoded_alike() -> None:
    shape = SHAPE.of(tiny_model().config.llama | {"num_attention_heads": 4, "num_key_value_heads": 2}, 4)
    draw = torch.Generator().manual_seed(0)
    llama = LiveLlama(
        shape, {name: torch.randn(size, generator=draw) * 0.3 for name, size in shape.tensors().items()}, 24
    )
    stores = llama.new_store(2), llama.new_store(2)
    states = []
    for store in stores:
        slots = [store.acquire(), store.acquire()]
        llama.step(store, [Row(slot, [0] * 5, INPUTS[:5], None) for slot in slots])
        rows = [Row(slot, [token], None, None) for slot, token in zip(slots, (3, 9), strict=True)]
        states.append(Decoding(llama, store).step(rows) if store is stores[0] else llama.step(store, rows))
    torch.testing.assert_close(*states, **CLOSE)


async def test_replies_are_the_same_with_and_without(tmp_path: Path) -> None:
    """Read beside others' decoding, by gates of their own, cancelled and begun anew."""
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)))
    engine.core.talks.decoding = Decoding(engine.core.language.llama, engine.core.store)
    talks = [engine.open_context() for _ in range(5)]
    clips = [await hear(talk, noise(8_000 + 1_700 * i, seed=i), 640) for i, talk in enumerate(talks)]
    histories = [[Exchange(text="one", reply="two")] * i + [Exchange(heard=clip)] for i, clip in enumerate(clips)]
    instructions = ["", "be short", "", "say it", "be short"]
    for _ in range(2):
        gone = talks[0].reply("", [Exchange(text="hello")], SHORT)
        await anext(gone)
        told = zip(talks[1:], instructions[1:], histories[1:], strict=True)
        together = await asyncio.gather(*(words(talk.reply(how, history, SHORT)) for talk, how, history in told))
        await gone.aclose()
        told = zip(instructions[1:], histories[1:], strict=True)
        assert together == [alone(engine, history, instruction=how) for how, history in told]
    await engine.close()
