"""The shipped model, everything at once: strangers, few slots, any chunking, answers begun ahead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import soundfile

from tests.core.test_engine import alone, words
from wavllm_core.checkpoint import NANO, load
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.core import EngineLimits, rolling
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.speculation import SpeculationLimits

CLIPS = sorted((Path(__file__).parents[2] / "clients/demo/clips").glob("*.flac"))
SAMPLING = Sampling(max_tokens=24)
TURNS = 3


async def test_everything_at_once_changes_no_token() -> None:
    eager = SpeculationLimits(max_queue_wait_ms=1e9)
    engine = LiveEngine(rolling(load(NANO)), EngineLimits(kv_mib=36, speculation=eager))  # three slots
    waveforms = [soundfile.read(clip, dtype="float32")[0][:48_000] for clip in CLIPS]
    asked: list[tuple[list[Exchange], str]] = []

    async def converse(person: int) -> None:
        talk, past, rng = engine.open_context(), [], np.random.default_rng(person)
        for turn in range(TURNS):
            talk.prepare("", past)
            utterance, waveform = talk.open_utterance(), waveforms[(person + turn) % len(waveforms)]
            cuts = np.sort(rng.integers(0, len(waveform), 6))
            for chunk in np.split(waveform, cuts):
                utterance.push(chunk)
                if rng.random() < 0.3 and len(chunk):  # a pause; it was none
                    heard = await utterance.hear()
                    talk.speculate("", [*past, Exchange(heard=heard, speaker=1)], SAMPLING)
            heard = await utterance.hear()
            history = [*past, Exchange(heard=heard, speaker=1)]
            talk.speculate("", history, SAMPLING)
            utterance.cancel()
            reply, said = await asyncio.gather(
                words(talk.reply("", history, SAMPLING)), words(engine.transcribe(heard))
            )
            asked.append((history, reply))
            past.append(Exchange(said, speaker=1, reply=reply))
        talk.close()

    await asyncio.gather(*(converse(person) for person in range(5)))
    figures = await engine.load_figures()
    assert figures.slots == 3 and figures.slots_held == 0
    assert figures.evictions > 0 and figures.speculations > figures.speculations_used > 0
    await engine.close()
    assert [reply for _, reply in asked] == [alone(engine, history, SAMPLING) for history, _ in asked]
    assert len({reply for _, reply in asked}) > 5
