"""The worker and its conversations: equal to doing it alone, errors stay where they belong, nothing is left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.tiny import tiny_checkpoint, tiny_model
from wavllm_core.engine.api import Exchange, Heard, Sampling, Written
from wavllm_core.engine.core import EngineLimits, rolling
from wavllm_core.engine.live import LiveContext, LiveEngine
from wavllm_core.engine.sampling import INCOMPLETE
from wavllm_core.errors import CapacityError, CoreError, InputError
from wavllm_core.lora import gated
from wavllm_core.prompt import TRANSCRIBE, PromptTemplate, Turn

SHORT = Sampling(max_tokens=12)
SLOT_MIB = 1  # more than one slot of the tiny model takes


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LiveEngine]:
    live = LiveEngine(rolling(tiny_checkpoint(tmp_path)))
    yield live
    left = await live.load_figures()
    assert (left.conversations, left.utterances, left.replies, left.slots_held) == (0, 0, 0, 0)
    assert live.core.hearings.encoders.open_streams == live._conversations == 0
    await live.close()
    assert not live._thread.is_alive() and not live._outlets


@pytest.fixture
def talk(engine: LiveEngine) -> AsyncIterator[LiveContext]:
    conversation = engine.open_context()
    yield conversation
    conversation.close()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.2).astype(np.float32)


async def hear(talk: LiveContext, waveform: np.ndarray, chunk: int) -> Heard:
    utterance = talk.open_utterance()
    for start in range(0, len(waveform), chunk):
        utterance.push(waveform[start : start + chunk])
    try:
        return await utterance.hear()
    finally:
        utterance.cancel()


async def words(pieces: AsyncGenerator[str, None] | AsyncGenerator[Written, None]) -> str:
    """Of a reply, or of a transcript."""
    return "".join([piece if isinstance(piece, str) else piece.text async for piece in pieces])


def alone(engine: LiveEngine, history: Sequence[Exchange], sampling: Sampling = SHORT, instruction: str = "") -> str:
    """The reference: computed in one go, by nobody else's side."""
    return "".join(engine.core.language.reply(history, instruction, sampling))


async def test_live_audio_equals_the_whole_clip(talk: LiveContext) -> None:
    waveform = noise(30_011)
    heard = await hear(talk, waveform, chunk=320)
    whole = tiny_model().encode(torch.from_numpy(waveform)[None])
    torch.testing.assert_close(heard.speech_embeds, whole.speech_embeds[0], rtol=1e-5, atol=1e-5)
    assert heard.seconds == pytest.approx(30_011 / 16_000)
    assert np.linalg.norm(heard.speaker_vector) == pytest.approx(1.0, abs=1e-5)


async def test_more_audio_takes_back_what_was_taken_for_the_end(talk: LiveContext) -> None:
    waveform, utterance = noise(30_011), talk.open_utterance()
    for start, end in ((0, 700), (700, 9_000), (9_000, 9_001), (9_001, 30_011)):
        utterance.push(waveform[start:end])
        heard = await utterance.hear()
        assert await utterance.hear() is heard
        whole = tiny_model().encode(torch.from_numpy(waveform[:end])[None])
        torch.testing.assert_close(heard.speech_embeds, whole.speech_embeds[0], rtol=1e-5, atol=1e-5)
        assert len(set(heard.vector_names)) == len(heard.speech_embeds)
    utterance.cancel()


async def test_strangers_together_answer_as_each_alone(engine: LiveEngine) -> None:
    talks = [engine.open_context() for _ in range(5)]
    clips = [await hear(talk, noise(8_000 + 1_700 * i, seed=i), 640) for i, talk in enumerate(talks)]
    histories = [[Exchange(text="one", reply="two")] * i + [Exchange(heard=clip)] for i, clip in enumerate(clips)]
    instructions = ["", "be short", "", "say it", "be short"]
    told = list(zip(talks, instructions, histories, strict=True))
    together = await asyncio.gather(*(words(talk.reply(how, history, SHORT)) for talk, how, history in told))
    assert together == [alone(engine, history, instruction=how) for _, how, history in told]
    assert len(set(together)) > 1  # the model listens
    for talk in talks:
        talk.close()


async def test_a_transcript_tells_how_sure_the_model_was(engine: LiveEngine, talk: LiveContext) -> None:
    """Of every token, the end included: as transformers and peft have it."""
    heard = await hear(talk, noise(20_000), 320)
    pieces = [piece async for piece in engine.transcribe(heard)]
    said = "".join(piece.text for piece in pieces)
    model, template = tiny_model(), PromptTemplate(engine.core.language.tokenizer)
    prompt = template.build([], Turn(spoken=True), TRANSCRIBE)
    ids: list[int] = []
    with torch.no_grad(), gated(model.llm, model.gate_for([template.gate_ids(TRANSCRIBE)])):
        for piece in pieces:
            parts = (model.embed(torch.tensor(prompt.before)), heard.speech_embeds)
            inputs = torch.cat([*parts, model.embed(torch.tensor([*prompt.after, *ids]))])[None]
            logprobs = model.llm(inputs_embeds=inputs).logits[0, -1].log_softmax(-1)
            if not piece.tokens:
                assert piece is pieces[-1] and piece.logprob == 0
                break
            best = int(logprobs.argmax())
            assert piece.tokens == 1 and piece.logprob == pytest.approx(float(logprobs[best]), abs=1e-4)
            ids.append(best)
    whole = template.tokenizer.decode([token for token in ids if token != template.end_id])
    assert said == whole.lstrip().removesuffix(INCOMPLETE) and len(ids) > 3


async def test_a_long_conversation_answers_as_if_every_turn_were_read_anew(engine: LiveEngine) -> None:
    """History stays in its slot, vectors are read while they come, and old turns go when the context is full."""
    talk, past, resident = engine.open_context(), [], []
    for turn in range(12):
        utterance = talk.open_utterance()
        for chunk in np.split(noise(12_000, seed=turn), 12):
            utterance.push(chunk)
        heard = await utterance.hear()
        utterance.cancel()
        history = [*past, Exchange(heard=heard, speaker=1 + turn % 2)]
        reply = await words(talk.reply("be short", history, SHORT))
        assert reply == alone(engine, history, instruction="be short")
        past.append(Exchange(text=f"what did i order {turn}", speaker=1 + turn % 2, reply=reply))
        talk.prepare("be short", past)
        await engine.load_figures()
        resident.append((await engine.load_figures()).positions_filled)
    assert max(resident) <= tiny_model().config.max_context
    talk.close()


async def test_what_was_prepared_is_not_read_again(engine: LiveEngine, talk: LiveContext) -> None:
    past = [Exchange(text="a mocha", reply="three")] * 4
    talk.prepare("", past)
    while (await engine.load_figures()).positions_filled < 20:
        pass
    read: list[int] = []
    step = engine.core.language.llama.step
    engine.core.language.llama.step = lambda store, rows: (
        read.append(sum(len(r.keys) for r in rows)) or step(store, rows)
    )
    await words(talk.reply("", [*past, Exchange(text="one")], replace(SHORT, max_tokens=1)))
    assert sum(read) < 10


async def test_what_a_prompt_was_made_of_is_told(engine: LiveEngine, talk: LiveContext) -> None:
    assert talk.prompt_usage() is None
    past = [Exchange("one two three", reply="four")]
    history = [*past, Exchange("five six")]
    for cached in (False, True):
        await words(talk.reply("", history, SHORT))
        used = talk.prompt_usage()
        assert used is not None
        assert used.tokens == len(engine.core.language.planner.plan(history, "", SHORT.max_tokens).keys)
        assert used.cached_tokens == cached * used.tokens
    await words(talk.reply("", [*past, Exchange("seven")], SHORT))  # the past is there, the question is new
    used = talk.prompt_usage()
    assert used is not None
    assert 0 < used.cached_tokens < used.tokens
    await words(talk.reply("be brief", history, SHORT))  # another gate: nothing of it can be kept
    used = talk.prompt_usage()
    assert used is not None
    assert used.cached_tokens == 0


async def test_history_and_instructions_change_the_answer(talk: LiveContext) -> None:
    heard = Exchange(heard=await hear(talk, noise(12_000), 640))
    drawn = Sampling(max_tokens=40, temperature=2.0, seed=1)
    plain = await words(talk.reply("", [heard], drawn))
    past = Exchange(text="a mocha", reply="three")
    assert await words(talk.reply("", [past, heard], drawn)) != plain
    assert await words(talk.reply("say nothing", [heard], drawn)) != plain
    assert await words(talk.reply("", [heard], drawn)) == plain


async def test_sampling_is_repeatable_by_seed_and_narrowed_by_top_p(talk: LiveContext) -> None:
    history = [Exchange(text="hello")]
    drawn = [await words(talk.reply("", history, Sampling(12, 1.0, seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = await words(talk.reply("", history, SHORT))
    assert await words(talk.reply("", history, Sampling(12, 1.0, 1, top_p=1e-6))) == greedy


async def test_sampling_that_cannot_be_fails_that_reply_only(engine: LiveEngine, talk: LiveContext) -> None:
    other, history = engine.open_context(), [Exchange(text="hello")]
    for wrong, complaint in ((Sampling(12, 1.0, 2**64), "seed"), (Sampling(12, float("nan")), "temperature: nan")):
        talk.speculate("", history, wrong)
        with pytest.raises(InputError, match=complaint):
            await words(talk.reply("", history, wrong))
    greedy = alone(engine, history)
    for sampling in (SHORT, Sampling(12, 1e-40), Sampling(12, 1.0, top_p=0.0), Sampling(12, 1e-40, 2**64 - 1, 0.5)):
        assert await words(other.reply("", history, sampling)) == greedy
    other.close()


async def test_a_stop_string_ends_the_reply_before_it(talk: LiveContext) -> None:
    history, drawn = [Exchange(text="hello")], Sampling(40, 2.0, 3)
    whole = await words(talk.reply("", history, drawn))
    stop = whole[5:9]
    pieces = [piece async for piece in talk.reply("", history, replace(drawn, stop=(stop, "never there")))]
    assert "".join(pieces) == whole[: whole.index(stop)]
    assert await words(talk.reply("", history, replace(drawn, stop=("never there",)))) == whole


async def test_a_reply_goes_on_behind_the_words_it_is_made_to_begin_with(engine: LiveEngine, talk: LiveContext) -> None:
    history, planner = [Exchange(text="hello")], engine.core.language.planner
    asked, begun = planner.plan(history, "", 12).keys, planner.plan(history, "", 12, " it is").keys
    assert begun == [*asked, *planner.prompts.encode(" it is")]
    for sampling in (SHORT, replace(SHORT, temperature=2.0, seed=3)):
        made = replace(sampling, begins=" it is")
        assert await words(talk.reply("", history, made)) == alone(engine, history, made) != alone(engine, history)
    room = planner.max_context - 12
    with pytest.raises(InputError, match=f"at most {room} are possible"):
        planner.plan(history, "", 12, " it is" * room)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_closed_iterator_stops_the_work(engine: LiveEngine, talk: LiveContext, after: int) -> None:
    pieces = talk.reply("", [Exchange(text="hello")], Sampling(max_tokens=200, temperature=2.0))
    reading = asyncio.ensure_future(anext(pieces)) if after == 0 else None  # noqa: TID251
    for _ in range(after):
        await anext(pieces)
    if reading:
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    await pieces.aclose()
    assert (await engine.load_figures()).replies == 0
    assert await words(talk.reply("", [Exchange(text="one")], SHORT)) == alone(engine, [Exchange(text="one")])


async def vanish(engine: LiveEngine) -> None:
    """In the middle of an utterance, of a reply, of a transcript."""
    talk = engine.open_context()
    utterance = talk.open_utterance()
    utterance.push(noise(30_000))
    heard = await utterance.hear()
    utterance.push(noise(30_000))
    talk.speculate("", [Exchange(heard=heard)], SHORT)
    reply = talk.reply("", [Exchange(heard=heard)], Sampling(max_tokens=100, temperature=2.0))
    transcript = engine.transcribe(heard)
    await asyncio.gather(anext(reply), anext(transcript, None))
    talk.open_utterance().push(noise(9_000))  # and this one, nobody gives up
    utterance.cancel()
    talk.close()
    talk.close()
    with pytest.raises(InputError, match="closed"):
        await words(talk.reply("", [Exchange(text="one")], SHORT))
    talk.prepare("", [])
    talk.speculate("", [Exchange(text="one")], SHORT)
    await asyncio.gather(reply.aclose(), transcript.aclose())


def tensor_bytes() -> int:
    """Of all that is alive in this process."""
    gc.collect()
    alive = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive}.values())


async def test_a_client_that_vanishes_leaves_nothing(engine: LiveEngine) -> None:
    """No slot and no stream, which the fixture counts, and no tensor."""
    await vanish(engine)  # gates are made once
    await engine.load_figures()
    before = tensor_bytes()
    for _ in range(3):
        await vanish(engine)
    await engine.load_figures()
    assert tensor_bytes() == before


async def test_an_utterance_of_nothing_is_refused_and_others_go_on(talk: LiveContext) -> None:
    empty = talk.open_utterance()
    with pytest.raises(InputError, match="0 samples"):
        await empty.hear()
    empty.cancel()
    assert (await hear(talk, noise(1), 1)).seconds == pytest.approx(1 / 16_000)


async def test_an_utterance_that_is_too_long_names_the_limit(talk: LiveContext) -> None:
    with pytest.raises(InputError, match="more than 30 s"):
        await hear(talk, noise(31 * 16_000), 16_000)


async def test_a_cancelled_utterance_lets_go(talk: LiveContext) -> None:
    utterance = talk.open_utterance()
    utterance.push(noise(16_000))
    utterance.cancel()
    utterance.push(noise(16_000))
    with pytest.raises(InputError, match="cancelled"):
        await utterance.hear()


async def test_old_turns_are_dropped_whole_when_the_context_is_full(talk: LiveContext) -> None:
    old = [Exchange(text="what did i order", reply="three times a mocha")] * 60
    assert await words(talk.reply("", [*old, Exchange(text="one")], SHORT))
    with pytest.raises(InputError, match="this turn needs"):
        await words(talk.reply("", [Exchange(text="what did i order " * 60)], SHORT))


async def test_past_turns_go_whole_and_several_at_a_time(engine: LiveEngine) -> None:
    old = [Exchange(text=f"order number {i}", reply="three times a mocha") for i in range(40)]
    context, planner = tiny_model().config.max_context, engine.core.language.planner
    starts = []
    for count in range(1, len(old)):
        plan = planner.plan([*old[:count], Exchange(text="one")], "", SHORT.max_tokens)
        assert len(plan.keys) <= context - SHORT.max_tokens
        kept = planner.recent(old[:count], own=20)
        assert [turn.text for turn in kept] == [turn.text for turn in old[count - len(kept) : count]]
        starts.append(count - len(kept))
    assert starts == sorted(starts)
    assert 1 < len(set(starts)) < starts[-1] / 2  # what follows a change is prefilled anew


async def test_instructions_that_are_too_long_are_refused(talk: LiveContext) -> None:
    talk.prepare("xyz " * 70, [Exchange(text="one", reply="two")])
    with pytest.raises(InputError, match=r"instructions: \d+ tokens; at most 128"):
        await words(talk.reply("xyz " * 70, [Exchange(text="one")], SHORT))


async def test_text_that_is_no_unicode_fails_that_reply_only(engine: LiveEngine, talk: LiveContext) -> None:
    half = Exchange("\ud800", reply="a pair")
    talk.prepare("", [half])
    talk.speculate("", [half, Exchange("one")], SHORT)
    with pytest.raises(InputError, match="cannot be read"):
        await words(talk.reply("", [half, Exchange("one")], SHORT))
    assert await words(talk.reply("", [Exchange("one")], SHORT)) == alone(engine, [Exchange("one")])


async def test_more_conversations_than_there_may_be_are_refused_and_live_ones_go_on(tmp_path: Path) -> None:
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(conversations=2))
    talks = [engine.open_context(), engine.open_context()]
    with pytest.raises(CapacityError, match="2 conversations"):
        engine.open_context()
    assert await words(talks[0].reply("", [Exchange(text="one")], SHORT))
    talks.pop().close()
    engine.open_context()
    await engine.close()
    with pytest.raises(CoreError, match="kv_mib: 0 MiB"):
        LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(kv_mib=0))
    with pytest.raises(CoreError, match="device: 'abacus'"):
        LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(device="abacus"))


async def test_more_conversations_than_slots_take_turns_and_answer_alike(tmp_path: Path) -> None:
    """Whoever rests is evicted, and read again from the journal; whoever is answered keeps the slot."""
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(kv_mib=SLOT_MIB))
    slots = engine.core.store.slots
    talks = [engine.open_context() for _ in range(3 * slots)]
    past = [[Exchange(text=f"order number {i}", reply="three")] for i in range(len(talks))]
    for _ in range(2):
        asked = [[*old, Exchange(text="one")] for old in past]
        for talk, old in zip(talks, past, strict=True):
            talk.prepare("", old)
        replies = await asyncio.gather(
            *(words(talk.reply("", history, SHORT)) for talk, history in zip(talks, asked, strict=True))
        )
        assert replies == [alone(engine, history) for history in asked]
        past = [[*old[:-1], replace(old[-1], reply=said)] for old, said in zip(asked, replies, strict=True)]
    figures = await engine.load_figures()
    assert figures.evictions > 0 and figures.slots_held <= slots
    for talk in talks:
        talk.close()
    assert (await engine.load_figures()).slots_held == 0
    await engine.close()


async def test_output_that_is_no_number_fails_that_reply_only(engine: LiveEngine, talk: LiveContext) -> None:
    broken = Heard(torch.full((3, 32), torch.nan), np.ones(8, np.float32), 0.2)
    other, good = engine.open_context(), [Exchange(text="one")]
    failed, answer = await asyncio.gather(
        words(talk.reply("", [Exchange(heard=broken)], SHORT)),
        words(other.reply("", good, SHORT)),
        return_exceptions=True,
    )
    assert isinstance(failed, CoreError) and "finite" in str(failed)
    assert answer == alone(engine, good)
    assert await words(talk.reply("", good, SHORT)) == answer  # its slot is clean again
    other.close()


async def test_work_that_raises_fails_alone(
    engine: LiveEngine, talk: LiveContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Vectors of the wrong width, audio of the wrong kind: in one step with good ones."""
    broken = Heard(torch.zeros(3, 7), np.ones(8, np.float32), 0.2)
    other, good = engine.open_context(), [Exchange(text="one")]
    failed, answer = await asyncio.gather(
        words(talk.reply("", [Exchange(heard=broken)], SHORT)),
        words(other.reply("", good, SHORT)),
        return_exceptions=True,
    )
    assert isinstance(failed, CoreError) and "decoding failed" in str(failed)
    assert answer == alone(engine, good)
    for wrong, complaint in ((np.zeros((5_000, 2), np.float32), r"\(5000, 2\)"), (np.zeros(9), "float64")):
        utterance = talk.open_utterance()
        utterance.push(wrong)
        with pytest.raises(InputError, match=complaint):
            await utterance.hear()
        utterance.cancel()
    assert all(record.exc_info for record in caplog.records)
    other.close()


async def test_logits_that_do_not_fit_into_memory_end_no_conversation_but_their_own(
    engine: LiveEngine, talk: LiveContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logits, rows = engine.core.language.llama.logits, [1]  # that there is room for

    def narrow(states: torch.Tensor) -> torch.Tensor:
        if len(states) > rows[0]:
            raise RuntimeError("out of memory")
        return logits(states)

    monkeypatch.setattr(engine.core.language.llama, "logits", narrow)
    other, good = engine.open_context(), [Exchange(text="one")]
    both = await asyncio.gather(words(talk.reply("", good, SHORT)), words(other.reply("", good, SHORT)))
    rows[0] = 0
    with pytest.raises(CoreError, match="decoding failed: out of memory"):
        await words(talk.reply("", good, SHORT))
    assert caplog.records
    monkeypatch.undo()
    assert await words(talk.reply("", good, SHORT)) == alone(engine, good) == both[0] == both[1]
    other.close()


async def test_a_gate_that_cannot_be_computed_fails_its_own_reply(
    engine: LiveEngine, talk: LiveContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = engine.core.language.gates.of

    def of(instruction: str) -> torch.Tensor:
        if instruction:
            raise RuntimeError("out of memory")
        return gate(instruction)

    monkeypatch.setattr(engine.core.language.gates, "of", of)
    other, good = engine.open_context(), [Exchange(text="one")]
    talk.prepare("be short", [Exchange("one", reply="two")])
    talk.speculate("be short", good, SHORT)
    with pytest.raises(CoreError, match="decoding failed: out of memory") as failed:
        await words(talk.reply("be short", good, SHORT))
    assert not isinstance(failed.value, InputError) and caplog.records
    assert await words(other.reply("", good, SHORT)) == await words(talk.reply("", good, SHORT)) == alone(engine, good)
    other.close()


async def test_an_utterance_that_the_encoders_refuse_fails_alone(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path)
    short_window = replace(checkpoint.config.semantic, max_frames=100)  # 4 s
    engine = LiveEngine(rolling(replace(checkpoint, config=replace(checkpoint.config, semantic=short_window))))
    talk = engine.open_context()
    long, short = talk.open_utterance(), talk.open_utterance()
    for _ in range(5):
        long.push(noise(16_000))
    short.push(noise(30_000))
    failed, heard = await asyncio.gather(long.hear(), short.hear(), return_exceptions=True)
    assert isinstance(failed, CoreError) and "encoding failed: 104 frames in a window of 100" in str(failed)
    assert isinstance(heard, Heard)
    await engine.close()


async def test_half_precision_works_alike(tmp_path: Path) -> None:
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)), EngineLimits(dtype="bfloat16"))
    talk = engine.open_context()
    heard = await hear(talk, noise(9_000), 640)
    drawn = Sampling(max_tokens=12, temperature=1.0, top_p=0.9, seed=5)
    assert engine.core.store.tensor.dtype == torch.bfloat16
    assert await words(talk.reply("be short", [Exchange(heard=heard)], drawn))
    await engine.close()


async def test_a_closed_engine_fails_what_is_under_way(tmp_path: Path) -> None:
    engine = LiveEngine(rolling(tiny_checkpoint(tmp_path)))
    talk = engine.open_context()
    utterance = talk.open_utterance()
    pieces = talk.reply("", [Exchange(text="hello")], Sampling(max_tokens=200, temperature=2.0))
    await anext(pieces)
    await engine.close()
    with pytest.raises(CoreError, match="closed"):
        await words(pieces)
    with pytest.raises(CoreError, match="closed"):
        await utterance.hear()
