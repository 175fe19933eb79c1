"""Answering ahead: the same tokens as without, used when right, forgotten when not, and never too dear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core.test_engine import SHORT, alone, noise, words
from tests.core.tiny import tiny_checkpoint
from wavllm_core.engine.api import Exchange, Heard, Sampling
from wavllm_core.engine.core import EngineLimits, rolling
from wavllm_core.engine.live import LiveContext, LiveEngine, LiveUtterance
from wavllm_core.engine.load import Load
from wavllm_core.engine.speculation import SpeculationLimits

PAST = [Exchange(text="a mocha", reply="three")]
DRAWN = Sampling(max_tokens=12, temperature=1.5, seed=3)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LiveEngine]:
    limits = EngineLimits(speculation=SpeculationLimits(per_utterance=2, tokens=8, max_queue_wait_ms=1e9))
    live = LiveEngine(rolling(tiny_checkpoint(tmp_path)), limits)
    yield live
    assert (await live.load_figures()).slots_held == 0
    await live.close()


@pytest.fixture
def talk(engine: LiveEngine) -> AsyncIterator[LiveContext]:
    context = engine.open_context()
    yield context
    context.close()


def asked(heard: Heard, speaker: int = 1) -> list[Exchange]:
    return [*PAST, Exchange(heard=heard, speaker=speaker)]


async def pause(talk: LiveContext, utterance: LiveUtterance, sampling: Sampling = SHORT) -> Heard:
    """What the agent does at a pause."""
    heard = await utterance.hear()
    talk.speculate("", asked(heard), sampling)
    return heard


async def settled(engine: LiveEngine) -> Load:
    """When nothing is left to be done."""
    while not (figures := await engine.load_figures()).idle:
        pass
    return figures


@pytest.mark.parametrize("sampling", [SHORT, DRAWN])
@pytest.mark.parametrize("patient", [True, False])
async def test_a_right_guess_is_used_and_says_the_same(
    engine: LiveEngine, talk: LiveContext, sampling: Sampling, patient: bool
) -> None:
    utterance = talk.open_utterance()
    utterance.push(noise(9_000))
    heard = await pause(talk, utterance, sampling)
    if patient:
        await settled(engine)  # as far as it may go; otherwise it is taken over while it is decoded
    assert await utterance.hear() is heard
    utterance.cancel()
    assert await words(talk.reply("", asked(heard), sampling)) == alone(engine, asked(heard), sampling)
    figures = await engine.load_figures()
    assert (figures.speculations, figures.speculations_used, figures.tokens_wasted) == (1, 1, 0)


async def test_speech_that_goes_on_takes_it_all_back(engine: LiveEngine, talk: LiveContext) -> None:
    utterance = talk.open_utterance()
    talk.prepare("", PAST)
    utterance.push(noise(9_000))
    await pause(talk, utterance)
    before = await settled(engine)
    assert before.replies == 1  # held
    utterance.push(noise(5_000, seed=1))
    figures = await settled(engine)
    assert figures.replies == 0 and figures.tokens_wasted > 0
    heard = await utterance.hear()
    utterance.cancel()
    assert await words(talk.reply("", asked(heard), SHORT)) == alone(engine, asked(heard))
    assert (await engine.load_figures()).speculations_used == 0


@pytest.mark.parametrize("other", ["history", "speaker", "instructions", "sampling"])
async def test_another_question_is_answered_for_itself(engine: LiveEngine, talk: LiveContext, other: str) -> None:
    utterance = talk.open_utterance()
    utterance.push(noise(9_000))
    heard = await pause(talk, utterance)
    await settled(engine)
    utterance.cancel()
    history = [asked(heard)[-1]] if other == "history" else asked(heard, 2 if other == "speaker" else 1)
    how = "be short" if other == "instructions" else ""
    sampling = DRAWN if other == "sampling" else SHORT
    assert await words(talk.reply(how, history, sampling)) == alone(engine, history, sampling, how)
    figures = await engine.load_figures()
    assert (figures.speculations, figures.speculations_used) == (1, 0)
    assert 0 < figures.tokens_wasted <= 8


async def test_there_are_caps(engine: LiveEngine, talk: LiveContext) -> None:
    utterance, tokens = talk.open_utterance(), []
    for number in range(4):
        utterance.push(noise(3_000, seed=number))
        await pause(talk, utterance, Sampling(max_tokens=100, temperature=3.0))
        await settled(engine)
        tokens += [answer.tokens for held in engine.core.talks.open for answer in held.answers]
    utterance.cancel()
    assert (await engine.load_figures()).speculations == len(tokens) == 2
    assert max(tokens) == 8
    again = talk.open_utterance()
    again.push(noise(3_000))
    await pause(talk, again)
    assert (await settled(engine)).speculations == 3  # the next utterance has its own
    again.cancel()


async def test_nobody_speculates_while_others_wait(tmp_path: Path) -> None:
    limits = EngineLimits(speculation=SpeculationLimits(max_queue_wait_ms=0.0))
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)), limits)
    talk = engine.open_context()
    utterance = talk.open_utterance()
    utterance.push(noise(9_000))
    heard = await pause(talk, utterance)
    assert (await settled(engine)).speculations == 0
    assert await words(talk.reply("", asked(heard), SHORT)) == alone(engine, asked(heard))
    await engine.close()


async def test_a_speculation_yields_its_slot_to_a_reply(tmp_path: Path) -> None:
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(kv_mib=1))
    talks = [engine.open_context() for _ in range(engine.core.store.slots + 1)]
    for talk in talks[:-1]:
        utterance = talk.open_utterance()
        utterance.push(noise(9_000))
        await pause(talk, utterance)
    assert (await settled(engine)).slots_held == engine.core.store.slots
    assert await words(talks[-1].reply("", [Exchange(text="one")], SHORT))
    figures = await engine.load_figures()
    assert figures.evictions == 1 and figures.replies == engine.core.store.slots - 1
    await engine.close()
