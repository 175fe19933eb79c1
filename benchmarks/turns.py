"""A conversation of many turns: the live engine against a plain loop that computes everything anew at each turn.

The plain loop is what a page of transformers and peft code does: at the end of a turn it encodes the turn's audio
and reads the whole prompt. Same weights, same history, same thread count, one run; the replies are compared.

Live in three ways: `cut off`, where the audio ends in the middle of a block and the reply is due at once, as when a
client commits; `paused`, where the rest was encoded and the whole question read during the wait for the end of speech;
and `ahead`, where the reply was begun then as well. The server does the last, and under load the second.

Milliseconds are told twice: by the clock, and of processor time, which other programs of the machine hardly change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from _report import announce, machine, parser, percentile, plot, save, spread, table

from wavllm_core.checkpoint import NANO, TIED_HEAD, Checkpoint, load
from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Heard, Sampling
from wavllm_core.engine.core import EngineLimits, rolling
from wavllm_core.engine.live import LiveContext, LiveEngine, LiveUtterance
from wavllm_core.engine.llama_shape import PREFIX
from wavllm_core.engine.speculation import SpeculationLimits
from wavllm_core.lora import gated
from wavllm_core.model import RollingWavLLM
from wavllm_core.prompt import PromptTemplate, Turn

CLIP = Path(__file__).parent.parent / "clients" / "demo" / "clips" / "s2i_540a38c2.flac"
CHUNK_SAMPLES = 320
SAMPLING = Sampling()
FIRST = Sampling(max_tokens=1)
SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)
TIMES = ("plain", "cut off", "paused", "ahead", "whole reply", "history")  # the last two: paused


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Milliseconds by the clock, and of processor time of all threads."""
        return 1000 * (time.perf_counter() - self.started[0]), 1000 * (time.process_time() - self.started[1])


class PlainLoop:
    """Encode, read, decode: nothing is kept between turns but text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = RollingWavLLM(checkpoint.config).eval().requires_grad_(False)
        self.model.load_state_dict(checkpoint.tensors | {TIED_HEAD: checkpoint.tensors[f"{PREFIX}embed_tokens.weight"]})
        self.template = PromptTemplate(checkpoint.tokenizer, checkpoint.config.system_prompt)
        self.end_id = checkpoint.tokenizer.token_to_id("</s>")
        self.gate = self.model.gate_for([self.template.gate_ids("")])  # as the engine, it keeps this one

    @torch.inference_mode()
    def answer(self, past: Sequence[Turn], waveform: torch.Tensor) -> tuple[tuple[float, float], str]:
        """What the first token took, and the reply."""
        watch, first = Stopwatch(), None
        embeds = self.model.encode(waveform[None]).speech_embeds
        prompt = self.template.build(past, Turn(spoken=True, speaker=1), "")
        before, after = (self.model.embed(torch.tensor([ids])) for ids in (prompt.before, prompt.after))
        inputs, cache, ids = torch.cat([before, embeds, after], dim=1), None, []
        with gated(self.model.llm, self.gate):
            for _ in range(SAMPLING.max_tokens):
                out = self.model.llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
                first = first or watch.read()
                if token == self.end_id:
                    break
                ids.append(token)
                inputs = self.model.embed(torch.tensor([[token]]))
        assert first
        return first, self.template.tokenizer.decode(ids, skip_special_tokens=True)


async def rest(engine: LiveEngine) -> None:
    """Until nothing is left to do, as it is after some seconds of live speech."""
    while not (await engine.load_figures()).idle:
        pass


async def speak(engine: LiveEngine, context: LiveContext, waveform: np.ndarray) -> LiveUtterance:
    utterance = context.open_utterance()
    for start in range(0, len(waveform), CHUNK_SAMPLES):
        utterance.push(waveform[start : start + CHUNK_SAMPLES])
    await rest(engine)
    return utterance


async def pause(
    engine: LiveEngine, context: LiveContext, waveform: np.ndarray, past: list[Exchange], speculations: int
) -> LiveUtterance:
    """Speak, and fall silent for longer than the engine has to do."""
    engine.core.speculation.limits = SpeculationLimits(per_utterance=speculations)
    utterance = await speak(engine, context, waveform)
    context.speculate("", [*past, Exchange(heard=await utterance.hear(), speaker=1)], FIRST)
    await rest(engine)
    return utterance


async def reply(
    context: LiveContext, utterance: LiveUtterance, past: list[Exchange]
) -> tuple[tuple[float, float], float, str, Heard]:
    """What it took from the end of speech to the first token; then to the whole reply, asked for again.

    Asked for alone, as the worker decodes on while the first token is handed over.
    """
    watch = Stopwatch()
    heard = await utterance.hear()
    asked = [*past, Exchange(heard=heard, speaker=1)]
    assert [piece async for piece in context.reply("", asked, FIRST)]
    first, watch = watch.read(), Stopwatch()
    text = "".join([piece async for piece in context.reply("", asked, SAMPLING)])
    utterance.cancel()
    return first, watch.read()[0], text, heard


async def converse(engine: LiveEngine, plain: PlainLoop, waveform: np.ndarray, turns: int) -> list[dict[str, Any]]:
    """One conversation; every turn in all ways, one after another."""
    context, past, rows = engine.open_context(), [], []
    for _ in range(turns):
        history_tokens = len(engine.core.language.planner.plan_listening(past, "").keys)
        cut_off, _, cut_text, _ = await reply(context, await speak(engine, context, waveform), past)
        paused, total_ms, text, heard = await reply(context, await pause(engine, context, waveform, past, 0), past)
        ahead, _, ahead_text, _ = await reply(context, await pause(engine, context, waveform, past, 3), past)
        anew, plain_text = plain.answer(engine.core.language.planner.recent(past, 0), torch.from_numpy(waveform))
        transcript = "".join([piece.text async for piece in engine.transcribe(heard)])
        past.append(Exchange(transcript, speaker=1, reply=text))
        watch = Stopwatch()
        context.prepare("", past)
        await rest(engine)
        spent = (anew, cut_off, paused, ahead, (total_ms, 0.0), watch.read())
        row: dict[str, Any] = {"history_tokens": history_tokens, "same": text == cut_text == ahead_text == plain_text}
        for name, (clock_ms, cpu_ms) in zip(TIMES, spent, strict=True):
            row |= {name: clock_ms, f"{name}, CPU": cpu_ms}
        rows.append(row)
    context.close()
    await rest(engine)
    return rows


async def measure(threads: int, turns: int, conversations: int) -> list[list[dict[str, Any]]]:
    checkpoint = load(NANO)
    waveform, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == SAMPLE_RATE
    torch.set_num_threads(threads)
    engine, plain = LiveEngine(rolling(checkpoint), EngineLimits(threads=threads)), PlainLoop(checkpoint)
    await converse(engine, plain, waveform, 2)
    rows = [await converse(engine, plain, waveform, turns) for _ in range(conversations)]
    await engine.close()
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=50)
    options.add_argument("--conversations", type=int, default=5)
    args = options.parse_args()
    rows = asyncio.run(measure(args.threads, args.turns, args.conversations))
    where = machine()
    announce(where)
    by_turn = [[conversation[turn] for conversation in rows] for turn in range(args.turns)]
    names = [*TIMES, "plain, CPU", "paused, CPU", "cut off, CPU"]
    medians = {name: [percentile([row[name] for row in turn], 0.5) for turn in by_turn] for name in names}
    lines = []
    for turn in (turn for turn in SHOWN if turn <= args.turns):
        at = {name: values[turn - 1] for name, values in medians.items()}
        ratios = at["plain"] / at["paused"], at["plain, CPU"] / at["paused, CPU"]
        tokens = by_turn[turn - 1][0]["history_tokens"]
        lines.append([turn, tokens, *(at[name] for name in ("plain", "cut off", "paused", "ahead")), *ratios])
    table(["turn", "history tokens", "plain", "cut off", "paused", "ahead", "plain / paused", "the same, CPU"], lines)
    for name in ("cut off, CPU", "paused", "paused, CPU"):
        first, last = (percentile(medians[name][span], 0.5) for span in (slice(0, 5), slice(args.turns - 5, None)))
        print(f"{name}: median of the last 5 turns over that of the first 5: {last / first:.2f}")
    same = sum(row["same"] for turn in by_turn for row in turn)
    print(f"milliseconds, end of speech to first token, medians of {args.conversations} conversations")
    print(f"replies identical in all ways: {same} of {args.turns * args.conversations}")
    figures = {name: spread([row[name] for turn in by_turn for row in turn]) for name in names}
    for name, values in figures.items():
        print(f"all turns, {name}: " + ", ".join(f"{share} {value:.1f} ms" for share, value in values.items()))
    save(args.out, "turns", where, {"medians": medians, "spread": figures, "identical": same, "rows": rows})
    drawn = {name: list(enumerate(medians[name], 1)) for name in ("plain", "cut off", "paused", "ahead")}
    plot(args.out, "turns", "End of speech to first token, by turn", ("turn", "milliseconds"), drawn)


if __name__ == "__main__":
    main()
