"""Stock encoders behind the live engine: the replies of the model in Hugging Face form, live and among strangers."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.test_engine import words
from tests.core.tiny_hf import noise, tiny_processor, tiny_wavllm
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveContext, LiveEngine
from wavllm_core.engine.sampling import INCOMPLETE
from wavllm_core.engine.speculation import SpeculationLimits
from wavllm_core.engine.stock import PublishedPrompts, stock
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.answer import PublishedAnswerer
from wavllm_core.prompt import Turn

SAMPLING = Sampling(max_tokens=10)
LIMITS = EngineLimits(kv_mib=16, speculation=SpeculationLimits(max_queue_wait_ms=1e9))
ASKED = [("what did i order", 2.3), ("", 4.0), ("be short", 1.1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("wavllm")
    tiny_wavllm(windows="unpadded").save_pretrained(made)
    tiny_processor(made / "words", windows="unpadded").save_pretrained(made)
    return made


def whole(text: str) -> str:
    """Without half a character at its end, which the engine holds back."""
    return text.strip().rstrip(INCOMPLETE)


async def answer(engine: LiveEngine, context: LiveContext, waveform: np.ndarray, how: str) -> tuple[str, Exchange]:
    """As the agent does it: chunks, a pause that was none, the end, an answer begun ahead."""
    context.prepare(how, [])
    utterance = context.open_utterance()
    for number, chunk in enumerate(np.array_split(waveform, 9)):
        utterance.push(chunk)
        await engine.load_figures()
        if number == 6:
            context.speculate(how, [Exchange(heard=await utterance.hear())], SAMPLING)
    asked = Exchange(heard=await utterance.hear())
    context.speculate(how, [asked], SAMPLING)
    utterance.cancel()
    return await words(context.reply(how, [asked], SAMPLING)), asked


async def test_replies_are_those_of_the_model_itself(folder: Path) -> None:
    engine = LiveEngine.load(folder, LIMITS)
    contexts = [engine.open_context() for _ in ASKED]
    waves = [noise(seconds, seed=i) for i, (_, seconds) in enumerate(ASKED)]
    replies = await asyncio.gather(
        *(answer(engine, context, wave, how) for context, wave, (how, _) in zip(contexts, waves, ASKED, strict=True))
    )
    reference = PublishedAnswerer(folder, SAMPLING.max_tokens)
    expected = [reference.answer(wave, how) for wave, (how, _) in zip(waves, ASKED, strict=True)]
    assert [whole(reply) for reply, _ in replies] == [whole(text) for text in expected]
    assert len(set(expected)) == len(expected)
    assert (await engine.load_figures()).speculations_used > 0
    typed = await words(contexts[0].reply("a mocha", [Exchange()], SAMPLING))
    assert whole(typed) == whole(reference.answer(None, "a mocha"))
    history = [Exchange("one", reply="two"), Exchange("three", reply="four"), replies[1][1]]
    assert await words(contexts[1].reply("say", history, SAMPLING)) == "".join(
        engine.core.language.reply(history, "say", SAMPLING)
    )
    for context in contexts:
        context.close()
    figures = await engine.load_figures()
    assert (figures.idle, figures.slots_held, figures.utterances) == (True, 0, 0)
    await engine.close()


async def test_a_model_without_a_gate_has_plain_lora(folder: Path, tmp_path: Path) -> None:
    model, processor = tiny_wavllm(windows="unpadded", use_gate=False), tiny_processor(tmp_path, windows="unpadded")
    inputs = processor(text="be short", audio=noise(1.0), sampling_rate=16_000)
    expected = processor.decode(model.generate(**inputs, max_new_tokens=10, do_sample=False)[0])
    engine = LiveEngine(stock(model, processor), LIMITS)
    context = engine.open_context()
    reply, _ = await answer(engine, context, noise(1.0), "be short")
    assert whole(reply) == whole(expected)
    await engine.close()


async def test_half_precision_works_alike(tmp_path: Path) -> None:
    model, processor = tiny_wavllm(windows="unpadded"), tiny_processor(tmp_path, windows="unpadded")
    engine = LiveEngine(stock(model, processor), replace(LIMITS, dtype="bfloat16"))
    context = engine.open_context()
    reply, asked = await answer(engine, context, noise(2.0), "be short")
    assert asked.heard and asked.heard.speech_embeds.dtype == torch.bfloat16
    assert reply
    await engine.close()


def test_the_system_prompt_stays_when_old_turns_go(tmp_path: Path) -> None:
    processor = tiny_processor(tmp_path, windows="unpadded")
    prompts = PublishedPrompts(processor)
    past = [Turn("one", reply="two"), Turn("three", reply="four")]
    text = processor.tokenizer.decode(prompts.build(past, Turn(spoken=True), "say").before)
    assert text.count(processor.system_prompt) == 1 and text.index(processor.system_prompt) < text.index("one")
    shorter = processor.tokenizer.decode(prompts.build(past[1:], Turn(spoken=True), "say").before)
    assert processor.system_prompt in shorter and "one" not in shorter
    alone = prompts.build([], Turn(spoken=True), "say")
    whole = processor.prompt("say", spoken=True, learn=False)
    assert [*alone.before, processor.audio_token_id, *alone.after] == whole


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"windows": "padded"}, "windows: unpadded"),
        ({"llm": {"hidden_act": "gelu"}}, "text_config.hidden_act: 'gelu'"),
        ({"llm": {"model_type": "olmo2"}}, "text_config.model_type: 'olmo2'; the live engine serves llama, mistral"),
        ({"llm": {"model_type": "mistral", "sliding_window": 64}}, "text_config.layer_types: 'sliding_attention'"),
        (
            {"llm": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}},
            "rope_type: 'dynamic'",
        ),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path: Path, options: dict[str, object], complaint: str) -> None:
    model = tiny_wavllm(**copy.deepcopy({"windows": "unpadded", **options}))
    with pytest.raises(CheckpointError, match=complaint):
        stock(model, tiny_processor(tmp_path, windows="unpadded"))
