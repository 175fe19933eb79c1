"""What tells words from noise when somebody speaks into a reply, and what it costs those who mean it.

Sounds: clips of a pack of recordings, each between two pauses, go through the server's detector and turn table.
Of every turn that they open: how much of it was voiced, and whether the model takes it for nothing, as no words or
murmurs, or is not sure of them: by several limits of that, of which one can be chosen (`--split train`) for a model of
one's own. Live: a server with the model and a voice is spoken to while it replies: with an order, which is answered,
and with as much of it as stays below `short_ms`, so that the reply goes on. Both with and without `resume`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _report import PACK, announce, machine, parser, percentile, require, save, table
from _serving import CHUNK_S, QUIET, recorded_people

from agent.config import AgentConfig, TurnsConfig, VoiceConfig
from agent.hearing.listener import Listener, Speech, to_waveform
from agent.hearing.silero import SileroVad, load_silero
from agent.hearing.turns import SpeechStopped, TurnRules
from agent.protocol.interruption import Interruption
from agent.sessions.transcripts import Transcript
from agent.transport.server import serve
from clients.realtime import Conversation, Waveform, connect, to_pcm
from wavllm_core.engine.live import LiveEngine
from wavllm_core.train.corpus import read_pack

PAUSE = np.zeros(16_000, np.float32)
SHORT_MS = (200, 300, 400)
LIMITS = (0.45, 0.55, 0.65, 0.75, 0.85)  # of min_confidence
ORDER = "give me a dark roast espresso with lots of almond milk"
REPLY_MS, SNEEZE_MS = 800, 400  # of the reply, before somebody speaks; of voice that is no words
SETTINGS = {
    "resume, words": TurnsConfig(),
    "resume: false, words": TurnsConfig(resume=False),
    "resume, short_ms 600, a short sound": TurnsConfig(short_ms=600),
    "resume: false, a short sound": TurnsConfig(resume=False),
}


async def hear(engine: LiveEngine, sounds: list[Waveform]) -> list[tuple[int, Transcript]]:
    """Milliseconds voiced and transcript of every turn that these open."""
    model, context, found = load_silero(), engine.open_context(), []
    for sound in sounds:
        vad = SileroVad(model, 0.5)
        rules = TurnRules(prefix_samples=4_800 + vad.lag_samples)
        said = b""
        for event in Listener(vad, rules, 0).feed(to_pcm(np.concatenate([PAUSE, sound, PAUSE]))):
            if isinstance(event, Speech):
                said += event.pcm
            elif isinstance(event, SpeechStopped):
                utterance = context.open_utterance()
                utterance.push(to_waveform(said))
                heard = await utterance.hear()
                written = Transcript(tuple([piece async for piece in engine.transcribe(heard)]))
                utterance.cancel()
                found.append((event.voiced_samples // 16, written))
                said = b""
    context.close()
    return found


def describe(source: str, sounds: int, turns: list[tuple[int, Transcript]]) -> list[object]:
    voiced, rules = [ms for ms, _ in turns], Interruption()
    nothing = 100 * sum(rules.is_nothing(written.text) for _, written in turns) / len(turns)
    shares = [100 * sum(ms < short for ms in voiced) / len(turns) for short in SHORT_MS]
    middle = [percentile(voiced, share) for share in (0.05, 0.5)]
    return [source, sounds, len(turns), *middle, *shares, nothing, *(taken(turns, limit) for limit in LIMITS)]


def taken(turns: list[tuple[int, Transcript]], min_confidence: float) -> float:
    """Per cent that are nothing, or short and unsure by this limit."""
    rules = Interruption(min_confidence=min_confidence)
    verdicts = [rules.is_nothing(said.text) or rules.is_unsure(said.confidence, ms) for ms, said in turns]
    return 100 * sum(verdicts) / len(turns)


@asynccontextmanager
async def serving(engine: LiveEngine, turns: TurnsConfig) -> AsyncIterator[str]:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig(turns=turns, voice=VoiceConfig(lead_ms=200))
    config = replace(config, server=replace(config.server, port=0))
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=ready.set_result))
        yield f"ws://127.0.0.1:{await ready}/v1/realtime"
        server.cancel()


async def speak_into_a_reply(url: str, sound: Waveform) -> dict[str, Any]:
    """The `response.created` and the latencies of what follows, with the milliseconds to its first audio."""
    async with connect(url, spoken=True) as conversation, asyncio.TaskGroup() as tasks:
        speaking: asyncio.Task[None] | None = None
        created: list[dict[str, Any]] = []
        await conversation.send_text(ORDER)
        async for event in conversation:
            if event["type"] == "response.created":
                created.append(event)
            elif event["type"] == "response.output_audio.delta" and speaking is None:
                speaking = tasks.create_task(hold(conversation, sound))
            elif event["type"] == "response.done" and len(created) == 2:
                assert speaking
                speaking.cancel()
                return {"resumed": "wavllm_resumes" in created[1], **event["wavllm_latency"]}
    raise AssertionError("the server is gone")


async def hold(conversation: Conversation, sound: Waveform) -> None:
    """The microphone, at the pace of speech."""
    loop = asyncio.get_running_loop()
    lead = np.tile(QUIET, round(REPLY_MS / 1000 / CHUNK_S))
    stream, begun_s = np.concatenate([lead, sound, np.tile(QUIET, 500)]), loop.time()
    for number in range(len(stream) // len(QUIET)):
        await asyncio.sleep(max(0.0, begun_s + number * CHUNK_S - loop.time()))
        await conversation.send_audio(stream[number * len(QUIET) : (number + 1) * len(QUIET)])


async def live(engine: LiveEngine, times: int) -> dict[str, list[dict[str, Any]]]:
    order = max(recorded_people(), key=len)
    onset = int(np.flatnonzero(np.abs(order) > 0.05 * np.abs(order).max())[0])
    found = {}
    for name, turns in SETTINGS.items():
        sound = order if name.endswith("words") else order[: onset + SNEEZE_MS * 16]
        async with serving(engine, turns) as url:
            found[name] = [await speak_into_a_reply(url, sound) for _ in range(times)]
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?", help="a tar of recordings, with dev clips and noise")
    options.add_argument("--clips", type=int, default=40, help="of each source; of noise: all")
    options.add_argument("--split", choices=["train", "dev"], default="dev")
    options.add_argument("--times", type=int, default=8, help="that a reply is spoken into, for each setting")
    args = options.parse_args()
    require(args.pack, PACK)
    sounds: dict[str, list[Waveform]] = {}
    for clip, pcm in read_pack(args.pack, lambda clip: clip.split == args.split):
        sounds.setdefault(clip.source, []).append(pcm.astype(np.float32) / 32_768)
    rng = random.Random(0)
    chosen = {
        source: clips if source == "noise" else rng.sample(clips, min(args.clips, len(clips)))
        for source, clips in sounds.items()
    }
    engine = LiveEngine.load()

    async def measure() -> tuple[dict[str, list[tuple[int, Transcript]]], dict[str, list[dict[str, Any]]]]:
        turns = {source: await hear(engine, clips) for source, clips in chosen.items()}
        found = await live(engine, args.times)
        await engine.close()
        return turns, found

    turns, replies = asyncio.run(measure())
    where = machine()
    announce(where)
    heads = ["source", "clips", "turns", "voiced ms, p5", "p50", *(f"under {ms} ms, %" for ms in SHORT_MS)]
    rows = [describe(source, len(chosen[source]), found) for source, found in turns.items() if found]
    table([*heads, "without words, or of murmurs, %", *(f"and unsure, below {limit}, %" for limit in LIMITS)], rows)
    rows = []
    for name, times in replies.items():
        first = [one["first_token_ms"] for one in times]
        audio = [one["first_audio_ms"] for one in times if one["first_audio_ms"] is not None]
        resumed = f"{sum(one['resumed'] for one in times)} of {len(times)}"
        rows.append([name, resumed, *(percentile(v, s) for v in (first, audio) for s in (0.5, 0.95))])
    heads = ["spoken into a reply", "taken up again", "first token ms, p50", "p95", "first audio ms, p50", "p95"]
    table(heads, rows)
    said = {
        source: [(ms, written.text, written.confidence) for ms, written in found] for source, found in turns.items()
    }
    save(args.out, "interruptions", where, {"turns": said, "replies": replies})


if __name__ == "__main__":
    main()
