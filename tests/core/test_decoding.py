"""Decode steps of fixed shapes, as a GPU replays them, run on the CPU: padding changes nothing, tokens are the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.core.replayed import cuda_graphs, flash_attention
from tests.core.test_engine import SHORT, alone, hear, noise, words
from tests.core.test_llama import CLOSE, GATE, INPUTS, LLAMA, SHAPE, run
from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine import decoding as module
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.core import Core, EngineLimits, rolling
from wavllm_core.engine.decoding import PAGE, WARM_UPS, Decoding, find_varlen
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.llama import LiveLlama, Row
from wavllm_core.engine.talk import Talk

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


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch on a GPU has it."""
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=flash_attention))


def captured(decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every step as a graph; returns what CUDA was told."""
    with cuda_graphs(monkeypatch) as told, torch.inference_mode():
        for shape, compute in decoding._steps.items():
            decoding._steps[shape] = module.capture(compute, torch.device("cuda"), "pool")
    return told


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("paged", [False, True])
def test_replays_see_nothing_of_the_steps_they_were_captured_in(paged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, slots, places, tokens and gates change from step to step, and so do the buckets."""
    monkeypatch.setattr(module, "SHORTEST", 6)
    store = LLAMA.new_store(6, PAGE if paged else None)
    store.tensor.fill_(torch.nan)
    decoding = Decoding(LLAMA, store, rows=(2, 4))
    if paged:
        decoding._varlen = find_varlen(LLAMA, store)
        assert decoding.paged
    told = captured(decoding, monkeypatch)
    one = ["side waits for usual", "on side", "usual waits for side", "capture into pool behind usual"]
    assert told == one * len(decoding._steps)
    slots, draw = [store.acquire() for _ in range(6)], torch.Generator().manual_seed(0)
    said: list[list[int]] = [[] for _ in slots]
    for slot, start, gate in zip(slots, [1, 5, 6, 11, 9, 2], [*GATES, None], strict=True):
        LLAMA.step(store, [Row(slot, list(range(start)), INPUTS[:start], gate)])
    for step in range(12):
        chosen = torch.randperm(6, generator=draw)[: 1 + step % 4].tolist()
        for i in chosen:
            said[i].append(int(torch.randint(2, 300, (), generator=draw)))
        gates = [*GATES, None]
        states = decoding.step([Row(slots[i], said[i][-1:], None, gates[i]) for i in chosen])
        for i, state in zip(chosen, states, strict=True):
            gate, start = gates[i], len(slots[i].keys) - len(said[i])
            inputs = torch.cat([INPUTS[:start], LLAMA.embed(said[i])])
            torch.testing.assert_close(state, run(inputs, None if gate is None else gate[: SHAPE.dim])[-1], **CLOSE)


def test_the_largest_step_is_captured_first_and_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the memory that it needs serves all the others."""
    monkeypatch.setattr(module, "SHORTEST", 6)
    decoding, ran = Decoding(LLAMA, LLAMA.new_store(4), rows=(1, 2, 4)), []
    for shape, compute in decoding._steps.items():
        decoding._steps[shape] = lambda shape=shape, compute=compute: ran.append(shape) or compute()
    captured(decoding, monkeypatch)
    shapes = [shape for shape in product((4, 2, 1), (24, 12, 6)) for _ in range(WARM_UPS + 1)]
    assert ran == shapes


def test_a_step_that_asks_the_host_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests here would see nothing."""
    decoding, some = Decoding(LLAMA, LLAMA.new_store(2), rows=(1,)), torch.ones(3)
    for ask in (some.max().item, some.tolist, lambda: some[some > 0], lambda: torch.tensor([1]), lambda: bool(some[0])):
        decoding._steps = {(1, 24): ask}
        with pytest.raises(RuntimeError, match="capturing"):
            captured(decoding, monkeypatch)


@pytest.mark.usefixtures("flash")
def test_paged_attention_is_used_where_it_does_what_sdpa_does(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = SHAPE.of(tiny_model().config.llama | {"num_attention_heads": 4, "num_key_value_heads": 2}, 4)
    tensors = {name: torch.zeros(size) for name, size in grouped.tensors().items()}
    for llama in (LLAMA, LiveLlama(grouped, tensors, 24)):
        assert find_varlen(llama, llama.new_store(1, PAGE))
        assert not find_varlen(llama, llama.new_store(1, 24))  # no whole page
    for wrong in (
        lambda *args, **options: flash_attention(*args, **options | {"num_splits": 2}),
        lambda *args, num_splits, **options: flash_attention(*args, **options),  # it has more parts by itself
        lambda queries, *args, **options: flash_attention(queries, *args, **options).roll(1, 0),
        lambda queries, *args, seqused_k, block_table: queries,  # an older torch
    ):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=wrong))
        assert not find_varlen(LLAMA, LLAMA.new_store(1, PAGE))
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert not find_varlen(LLAMA, LLAMA.new_store(1, PAGE))


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


async def test_what_was_read_beside_a_step_that_fails_is_read_once(tmp_path: Path) -> None:
    """A reading and two answers in one step of the worker, whose decoding fails: each is tried again alone."""
    core = Core(rolling(tiny_checkpoint(tmp_path)), EngineLimits(), lambda: 0.0)
    decoding = core.talks.decoding = Decoding(core.language.llama, core.store)
    step, history, drawn = decoding.step, [Exchange(text="one")], Sampling(12, 2.0, seed=3)

    def fail_in_company(rows: Sequence[Row]) -> Tensor:
        if len(rows) > 1:
            raise RuntimeError("out of memory")
        return step(rows)

    decoding.step = fail_in_company
    talks, pieces = [Talk(), Talk(), Talk()], [[], [], []]
    core.talks.open += talks
    for talk, told in zip(talks[:2], pieces, strict=False):
        core.talks.ask(talk, "reply", "", history, drawn, told.append)
        core.advance()
    transcript = core.talks.ask(talks[2], "transcript", "", history, drawn, pieces[2].append)
    assert transcript
    while core.advance():
        pass
    assert talks[2].slot and len(talks[2].slot.keys) == len(transcript.plan.keys) + transcript.tokens - 1
    expected = "".join(core.language.reply(history, "", drawn))
    for said in pieces[:2]:
        assert said[-1] is None and "".join(said[:-1]) == expected
    assert pieces[2][-1] is None and "".join(piece.text for piece in pieces[2][:-1]) == expected
