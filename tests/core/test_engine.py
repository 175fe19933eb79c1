"""The worker and its conversations: equal to doing it alone, errors stay where they belong, nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine.api import Exchange, Heard, Sampling
from wavllm_core.engine.live import LiveEngine
from wavllm_core.errors import CoreError, InputError

SHORT = Sampling(max_tokens=12)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LiveEngine]:
    live = LiveEngine(tiny_checkpoint(tmp_path), threads=1)
    yield live
    await live.close()
    assert not live._thread.is_alive()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.2).astype(np.float32)


async def hear(engine: LiveEngine, waveform: np.ndarray, chunk: int) -> Heard:
    utterance = engine.open_utterance()
    for start in range(0, len(waveform), chunk):
        utterance.push(waveform[start : start + chunk])
    return await utterance.finish()


async def words(pieces: AsyncGenerator[str, None]) -> str:
    return "".join([piece async for piece in pieces])


async def test_live_audio_equals_the_whole_clip(engine: LiveEngine) -> None:
    waveform = noise(30_011)
    heard = await hear(engine, waveform, chunk=320)
    whole = tiny_model().encode(torch.from_numpy(waveform)[None])
    torch.testing.assert_close(heard.speech_embeds, whole.speech_embeds[0], rtol=1e-5, atol=1e-5)
    assert heard.seconds == pytest.approx(30_011 / 16_000)
    assert np.linalg.norm(heard.speaker_vector) == pytest.approx(1.0, abs=1e-5)


async def test_many_at_once_answer_as_each_alone(engine: LiveEngine) -> None:
    clips = [await hear(engine, noise(8_000 + 1_700 * i, seed=i), 640) for i in range(4)]
    histories = [[Exchange(text="one", reply="two"), Exchange(heard=clip)] for clip in clips]
    alone = [await words(engine.reply("be short", history, SHORT)) for history in histories]
    together = await asyncio.gather(*(words(engine.reply("be short", history, SHORT)) for history in histories))
    assert list(together) == alone
    assert len(set(alone)) > 1  # the model listens


async def test_history_and_instructions_change_the_answer(engine: LiveEngine) -> None:
    heard = Exchange(heard=await hear(engine, noise(12_000), 640))
    drawn = Sampling(max_tokens=40, temperature=2.0, seed=1)
    plain = await words(engine.reply("", [heard], drawn))
    past = Exchange(text="a mocha", reply="three")
    assert await words(engine.reply("", [past, heard], drawn)) != plain
    assert await words(engine.reply("say nothing", [heard], drawn)) != plain


async def test_sampling_is_repeatable_by_seed(engine: LiveEngine) -> None:
    history = [Exchange(text="hello")]
    drawn = [await words(engine.reply("", history, Sampling(12, 1.0, seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_a_closed_iterator_stops_the_work(engine: LiveEngine) -> None:
    pieces = engine.reply("", [Exchange(text="hello")], Sampling(max_tokens=200, temperature=2.0))
    await anext(pieces)
    await pieces.aclose()
    await words(engine.reply("", [Exchange(text="hello")], SHORT))  # the worker has gone round since
    assert not engine._decoding


async def test_an_utterance_of_nothing_is_refused_and_others_go_on(engine: LiveEngine) -> None:
    with pytest.raises(InputError, match="0 samples"):
        await engine.open_utterance().finish()
    assert (await hear(engine, noise(1), 1)).seconds == pytest.approx(1 / 16_000)


async def test_an_utterance_that_is_too_long_names_the_limit(engine: LiveEngine) -> None:
    with pytest.raises(InputError, match="more than 30 s"):
        await hear(engine, noise(31 * 16_000), 16_000)


async def test_a_cancelled_utterance_lets_go(engine: LiveEngine) -> None:
    utterance = engine.open_utterance()
    utterance.push(noise(16_000))
    utterance.cancel()
    utterance.push(noise(16_000))
    with pytest.raises(InputError, match="cancelled"):
        await utterance.finish()


async def test_old_turns_are_dropped_whole_when_the_context_is_full(engine: LiveEngine) -> None:
    old = [Exchange(text="what did i order", reply="three times a mocha")] * 60
    assert await words(engine.reply("", [*old, Exchange(text="one")], SHORT))
    with pytest.raises(InputError, match="this turn needs"):
        await words(engine.reply("", [Exchange(text="what did i order " * 60)], SHORT))


async def test_past_turns_go_whole_and_several_at_a_time(engine: LiveEngine) -> None:
    old = [Exchange(text=f"order number {i}", reply="three times a mocha") for i in range(40)]
    context = tiny_model().config.max_context
    starts = []
    for count in range(1, len(old)):
        plan = engine.decoder.plan([*old[:count], Exchange(text="one")], "", SHORT.max_tokens)
        assert len(plan.keys) <= context - SHORT.max_tokens
        kept = engine.decoder.recent(old[:count], own=20)
        assert [turn.text for turn in kept] == [turn.text for turn in old[count - len(kept) : count]]
        starts.append(count - len(kept))
    assert starts == sorted(starts)
    assert 1 < len(set(starts)) < starts[-1] / 2  # what follows a change is prefilled anew


async def test_instructions_that_are_too_long_are_refused(engine: LiveEngine) -> None:
    with pytest.raises(InputError, match=r"instructions: \d+ tokens; at most 128"):
        await words(engine.reply("xyz " * 70, [Exchange(text="one")], SHORT))


async def test_output_that_is_no_number_fails_that_reply_only(engine: LiveEngine) -> None:
    broken = Heard(torch.full((3, 32), torch.nan), np.ones(8, np.float32), 0.2)
    good = [Exchange(text="one")]
    wanted = await words(engine.reply("", good, SHORT))
    failed, answer = await asyncio.gather(
        words(engine.reply("", [Exchange(heard=broken)], SHORT)),
        words(engine.reply("", good, SHORT)),
        return_exceptions=True,
    )
    assert isinstance(failed, CoreError) and "finite" in str(failed)
    assert answer == wanted


async def test_a_closed_engine_fails_what_is_under_way(engine: LiveEngine) -> None:
    utterance = engine.open_utterance()
    pieces = engine.reply("", [Exchange(text="hello")], Sampling(max_tokens=200, temperature=2.0))
    await anext(pieces)
    await engine.close()
    with pytest.raises(CoreError, match="closed"):
        await words(pieces)
    with pytest.raises(CoreError, match="closed"):
        await utterance.finish()
