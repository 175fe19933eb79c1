"""What the engine costs: encoding per block of live audio, and end of speech to first token, by history length.

Prints a table and its command line; `--json FILE` keeps the figures. Audio is a shipped clip, the model nano.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from wavllm_core.checkpoint import NANO
from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Sampling
from wavllm_core.engine.live import LiveEngine

CLIP = Path(__file__).parent.parent / "clients" / "demo" / "clips" / "s2i_540a38c2.flac"
CHUNK_SAMPLES = 320
HISTORY_TURNS = (0, 1, 5, 10, 20)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


async def turn_ms(engine: LiveEngine, waveform: np.ndarray, turns: int) -> tuple[float, float]:
    """Milliseconds from the last sample to the first piece of the reply, and to its end."""
    utterance = engine.open_utterance()
    for start in range(0, len(waveform), CHUNK_SAMPLES):
        utterance.push(waveform[start : start + CHUNK_SAMPLES])
    caught_up, loop = asyncio.Event(), asyncio.get_running_loop()
    engine.encode_soon(lambda: loop.call_soon_threadsafe(caught_up.set))
    await caught_up.wait()  # as encoders have with live speech
    past = [Exchange("give me a mocha with soy milk", speaker=1, reply="A mocha with soy milk. How many?")] * turns
    started = time.perf_counter()
    heard = await utterance.finish()
    first = None
    async for _ in engine.reply("", [*past, Exchange(heard=heard, speaker=1)], Sampling()):
        first = first or time.perf_counter()
    ended = time.perf_counter()
    return 1000 * ((first or ended) - started), 1000 * (ended - started)


def block_ms(engine: LiveEngine, repeats: int) -> list[float]:
    """Milliseconds of both encoders for one block, late in an utterance."""
    model, costs = engine.decoder.speech, []
    block = torch.randn(1, model.config.block_samples) * 0.1
    with torch.inference_mode():
        state = model.init_state()
        for _ in range(20 + repeats):
            started = time.perf_counter()
            state, _ = model.step(state, block)
            costs.append(1000 * (time.perf_counter() - started))
    return costs[20:]


async def measure(checkpoint: Path, threads: int, repeats: int) -> dict[str, object]:
    engine = LiveEngine.load(checkpoint, threads)
    torch.set_num_threads(threads)
    waveform, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == SAMPLE_RATE
    costs = block_ms(engine, min(repeats, 50))
    block_s = engine.decoder.config.block_samples / SAMPLE_RATE
    rows = []
    for turns in HISTORY_TURNS:
        await turn_ms(engine, waveform, turns)
        taken = [await turn_ms(engine, waveform, turns) for _ in range(repeats)]
        first, total = [a for a, _ in taken], [b for _, b in taken]
        rows.append(
            {
                "history_turns": turns,
                "first_token_ms_p50": statistics.median(first),
                "first_token_ms_p95": percentile(first, 0.95),
                "reply_ms_p50": statistics.median(total),
            }
        )
    await engine.close()
    return {
        "encoder_ms_per_block": statistics.median(costs),
        "encoder_share_of_real_time": statistics.median(costs) / 1000 / block_s,
        "turns": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=NANO)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = asyncio.run(measure(args.checkpoint, args.threads, args.repeats))
    versions = f"torch {torch.__version__}"
    machine = f"{platform.machine()}, {args.threads} threads, {versions}"
    print(f"$ python {' '.join(sys.argv)}\n{machine}\n")
    share = figures["encoder_share_of_real_time"]
    print(f"both encoders: {figures['encoder_ms_per_block']:.1f} ms a block, {100 * share:.1f} % of real time\n")
    print("| history turns | end of speech to first token p50 | p95 | to the end of the reply p50 |")
    print("| --- | --- | --- | --- |")
    for row in figures["turns"]:
        print(
            f"| {row['history_turns']} | {row['first_token_ms_p50']:.0f} ms "
            f"| {row['first_token_ms_p95']:.0f} ms | {row['reply_ms_p50']:.0f} ms |"
        )
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
