"""A conversation of many turns: the live engine against a plain loop that computes everything anew at each turn.

The plain loop is what a page of transformers and peft code does: at the end of a turn it encodes the turn's audio
and reads the whole prompt. Same weights, same history, same thread count, one run; the replies are compared.
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
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveContext, LiveEngine, LiveUtterance
from wavllm_core.engine.llama import PREFIX
from wavllm_core.lora import gated
from wavllm_core.model import RollingWavLLM
from wavllm_core.prompt import PromptTemplate, Turn

CLIP = Path(__file__).parent.parent / "clients" / "demo" / "clips" / "s2i_540a38c2.flac"
CHUNK_SAMPLES = 320
SAMPLING = Sampling()
SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)
TIMES = ("plain", "live", "ahead", "live_total", "prepare")


class PlainLoop:
    """Encode, read, decode: nothing is kept between turns but text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = RollingWavLLM(checkpoint.config).eval().requires_grad_(False)
        self.model.load_state_dict(checkpoint.tensors | {TIED_HEAD: checkpoint.tensors[f"{PREFIX}embed_tokens.weight"]})
        self.template = PromptTemplate(checkpoint.tokenizer, checkpoint.config.system_prompt)
        self.end_id = checkpoint.tokenizer.token_to_id("</s>")
        self.gate = self.model.gate_for([self.template.gate_ids("")])  # as the engine, it keeps this one

    @torch.inference_mode()
    def answer(self, past: Sequence[Turn], waveform: torch.Tensor) -> tuple[float, str]:
        """Milliseconds to the first token, and the reply."""
        started, first_ms = time.perf_counter(), 0.0
        embeds = self.model.encode(waveform[None]).speech_embeds
        prompt = self.template.build(past, Turn(spoken=True, speaker=1), "")
        before, after = (self.model.embed(torch.tensor([ids])) for ids in (prompt.before, prompt.after))
        inputs, cache, ids = torch.cat([before, embeds, after], dim=1), None, []
        with gated(self.model.llm, self.gate):
            for _ in range(SAMPLING.max_tokens):
                out = self.model.llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
                first_ms = first_ms or 1000 * (time.perf_counter() - started)
                if token == self.end_id:
                    break
                ids.append(token)
                inputs = self.model.embed(torch.tensor([[token]]))
        return first_ms, self.template.tokenizer.decode(ids, skip_special_tokens=True)


async def rest(engine: LiveEngine) -> None:
    """Until nothing is left to do, as it is after some seconds of live speech."""
    while True:
        await engine.load_figures()
        if engine.core.hearings.due() is None and engine.core.talks.due() is None:
            return
        await asyncio.sleep(0.002)


async def speak(engine: LiveEngine, context: LiveContext, waveform: np.ndarray) -> LiveUtterance:
    utterance = context.open_utterance()
    for start in range(0, len(waveform), CHUNK_SAMPLES):
        utterance.push(waveform[start : start + CHUNK_SAMPLES])
    await rest(engine)
    return utterance


async def reply(
    context: LiveContext, utterance: LiveUtterance, past: list[Exchange]
) -> tuple[float, float, str, Heard]:
    """Milliseconds from the end of speech to the first piece and to the last, the reply, and what was heard."""
    started, first, text = time.perf_counter(), 0.0, ""
    heard = await utterance.hear()
    async for piece in context.reply("", [*past, Exchange(heard=heard, speaker=1)], SAMPLING):
        first = first or time.perf_counter()
        text += piece
    utterance.cancel()
    return 1000 * (first - started), 1000 * (time.perf_counter() - started), text, heard


async def converse(engine: LiveEngine, plain: PlainLoop, waveform: np.ndarray, turns: int) -> list[dict[str, Any]]:
    """One conversation; every turn live, then live with the answer begun at the pause, then plain."""
    context, past, rows = engine.open_context(), [], []
    for _ in range(turns):
        history_tokens = len(engine.core.decoder.plan_listening(past, "").keys)
        utterance = await speak(engine, context, waveform)
        live_ms, total_ms, text, heard = await reply(context, utterance, past)
        utterance = await speak(engine, context, waveform)
        context.speculate("", [*past, Exchange(heard=await utterance.hear(), speaker=1)], SAMPLING)
        await rest(engine)  # the wait for the end of speech is longer
        ahead_ms, _, ahead_text, _ = await reply(context, utterance, past)
        plain_ms, plain_text = plain.answer(engine.core.decoder.recent(past, 0), torch.from_numpy(waveform))
        transcript = "".join([piece async for piece in engine.transcribe(heard)])
        past.append(Exchange(transcript, speaker=1, reply=text))
        started = time.perf_counter()
        context.prepare("", past)
        await rest(engine)
        prepare_ms = 1000 * (time.perf_counter() - started)
        times = dict(zip(TIMES, (plain_ms, live_ms, ahead_ms, total_ms, prepare_ms), strict=True))
        rows.append({**times, "history_tokens": history_tokens, "same": text == ahead_text == plain_text})
    context.close()
    await rest(engine)
    return rows


async def measure(threads: int, turns: int, conversations: int) -> list[list[dict[str, Any]]]:
    checkpoint = load(NANO)
    waveform, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == SAMPLE_RATE
    torch.set_num_threads(threads)
    engine, plain = LiveEngine(checkpoint, EngineLimits(threads=threads)), PlainLoop(checkpoint)
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
    medians = {name: [percentile([row[name] for row in turn], 0.5) for turn in by_turn] for name in TIMES}
    heads = ["turn", "history tokens", "plain", "live", "plain / live", "answered ahead", "live, whole reply"]
    lines = []
    for turn in (turn for turn in SHOWN if turn <= args.turns):
        plain_ms, live_ms, ahead_ms, total_ms, prepare_ms = (medians[name][turn - 1] for name in TIMES)
        tokens = by_turn[turn - 1][0]["history_tokens"]
        lines.append([turn, tokens, plain_ms, live_ms, plain_ms / live_ms, ahead_ms, total_ms, prepare_ms])
    table([*heads, "read in idle time"], lines)
    first, last = (percentile(medians["live"][span], 0.5) for span in (slice(0, 3), slice(args.turns - 3, args.turns)))
    same = sum(row["same"] for turn in by_turn for row in turn)
    print(f"milliseconds, end of speech to first token, medians of {args.conversations} conversations")
    print(f"live, median of the last 3 turns over that of the first 3: {last / first:.2f}")
    print(f"replies identical live, ahead and plain: {same} of {args.turns * args.conversations}")
    figures = {name: spread([row[name] for turn in by_turn for row in turn]) for name in TIMES}
    for name, values in figures.items():
        print(f"all turns, {name}: " + ", ".join(f"{share} {value:.1f} ms" for share, value in values.items()))
    save(args.out, "turns", where, {"medians": medians, "spread": figures, "identical": same, "rows": rows})
    drawn = {name: list(enumerate(medians[name], 1)) for name in ("plain", "live", "ahead")}
    plot(args.out, "turns", "End of speech to first token, by turn", ("turn", "milliseconds"), drawn)


if __name__ == "__main__":
    main()
