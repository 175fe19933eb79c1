"""Recorded people through the whole server: its detector, its ends of turns, its model.

    python benchmarks/served.py PACK [--clips 60] [--snr-db 12]

Each dev clip of an order, a digit or a wake phrase is a conversation of its own over a websocket, at the pace of a
microphone: half a second of silence, the clip, two seconds of silence. Right is one turn with the right reply, by the
letter for digits and wake phrases, in all slots for orders. With `--snr-db` noise that training has not heard goes on
all the time, silence included. Beside it stands what `wavllm eval` counts: the model's answers to the same clips,
whole, without a detector.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from _report import PACK, announce, machine, parser, require, save, table

from agent.config import AgentConfig
from agent.transport.server import serve
from clients.realtime import SAMPLE_RATE, connect
from clients.turns import Turn, TurnLog
from wavllm_core.checkpoint import NANO, load
from wavllm_core.engine.live import LiveEngine
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import share
from wavllm_core.evaluate.tasks import SEED, Noises, add_noise, is_right, read_noises
from wavllm_core.train.corpus import Clip, Pcm, read_pack

SOURCES = {"s2i": "orders", "fsdd": "digits", "wake": "wake phrases"}
KINDS = ("one turn", "no turn", "more", "not over")
LEAD_S, TAIL_S = 0.5, 2.0
PACKET = SAMPLE_RATE // 25
PATIENCE_S = 120.0
AT_ONCE = 8


@dataclass
class Outcome:
    """One clip, and what came of it."""

    clip: Clip
    turns: list[Turn] = field(default_factory=list)  # with words
    open: bool = False  # speech was still heard when the sound was over
    right: bool = False
    right_whole: bool = False  # the model alone, asked about the whole clip

    @property
    def kind(self) -> str:
        return "not over" if self.open else {0: "no turn", 1: "one turn"}.get(len(self.turns), "more")


async def converse(url: str, pcm: Pcm) -> TurnLog:
    """Say a clip, (samples,) with the silence around it; the turns that the server made of it."""
    log, stream, over = TurnLog(), (pcm / 32768).astype(np.float32), False

    async def say() -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for start in range(0, len(stream), PACKET):
            await asyncio.sleep(max(0.0, begun_s + start / SAMPLE_RATE - loop.time()))
            await conversation.send_audio(stream[start : start + PACKET])
        await conversation.send({"type": "session.update", "session": {"type": "realtime"}})

    async with connect(url) as conversation, asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(say())
        async for event in conversation:
            log.apply(event)
            over = over or event["type"] == "session.updated"  # what was said before has been heard
            if over and (log.settled or log.speaking):
                break
    return log


async def serve_all(engine: LiveEngine, outcomes: Sequence[Outcome], sounds: Sequence[Pcm]) -> None:
    """Every sound in a conversation of its own, a few at once."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig()
    config = replace(config, server=replace(config.server, port=0))
    some = asyncio.Semaphore(AT_ONCE)

    async def say(url: str, outcome: Outcome, pcm: Pcm) -> None:
        async with some:
            log = await converse(url, pcm)
            outcome.open, outcome.turns = log.speaking, [turn for turn in log.turns if turn.transcript]
            outcome.right = not log.speaking and [is_right(outcome.clip, turn.reply) for turn in outcome.turns] == [
                True
            ]

    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=ready.set_result))
        url = f"ws://127.0.0.1:{await ready}/v1/realtime"
        await asyncio.gather(*(say(url, outcome, pcm) for outcome, pcm in zip(outcomes, sounds, strict=True)))
        server.cancel()


def heard_sounds(pack: Path, clips: int | None, snr_db: float | None) -> tuple[list[Outcome], list[Pcm], list[Pcm]]:
    """Clips of each source, drawn from one seed; with silence or noise around them, and as they are."""
    rows: dict[str, list[tuple[Clip, Pcm]]] = {}
    for clip, pcm in read_pack(pack, lambda clip: clip.split == "dev" and clip.source in SOURCES):
        rows.setdefault(clip.source, []).append((clip, pcm))
    rng, noises = random.Random(SEED), read_noises(pack)
    chosen = [row for found in rows.values() for row in (found if clips is None else rng.sample(found, clips))]
    lead, tail = (int(seconds * SAMPLE_RATE) for seconds in (LEAD_S, TAIL_S))
    padded = [np.pad(pcm, (lead, tail)) for _, pcm in chosen]
    if snr_db is not None:
        padded = [noisy(pcm, noises, snr_db, rng) for pcm in padded]
    return [Outcome(clip) for clip, _ in chosen], padded, [pcm[lead : len(pcm) - tail] for pcm in padded]


def noisy(pcm: Pcm, noises: Noises, snr_db: float, rng: random.Random) -> Pcm:
    return add_noise(pcm, noises, rng.choice(sorted(noises)), snr_db, rng)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?", help=PACK)
    options.add_argument("--clips", type=int, help="of each source; else all")
    options.add_argument("--snr-db", type=float, help="of noise that goes on all the time")
    args = options.parse_args()
    require(args.pack, PACK)
    outcomes, sounds, clips = heard_sounds(args.pack, args.clips, args.snr_db)
    alone = Listener(load(NANO))
    for outcome, clip in zip(outcomes, clips, strict=True):
        outcome.right_whole = is_right(outcome.clip, alone.ask(alone.hear(clip)))
    engine = LiveEngine.load()

    async def measure() -> None:
        await serve_all(engine, outcomes, sounds)
        await engine.close()

    asyncio.run(measure())
    where, lines, found = machine(), [], {}
    announce(where)
    for source, name in SOURCES.items():
        rows = [outcome for outcome in outcomes if outcome.clip.source == source]
        if not rows:
            continue
        served, whole = share(row.right for row in rows), share(row.right_whole for row in rows)
        kinds = Counter(row.kind for row in rows)
        low, high = served.interval()
        counts = [kinds[kind] for kind in KINDS]
        lines.append([name, len(rows), *counts, f"{low:.1f}-{high:.1f}", served.percent, whole.percent])
        found[name] = {"served": asdict(served), "whole": asdict(whole)}
    heads = ["dev clips", "number", *KINDS, "served, 95 % interval", "% right, served", "whole clips"]
    table(heads, lines)
    said = [
        (row.clip.file, row.right, row.right_whole, [(turn.transcript, turn.reply) for turn in row.turns])
        for row in outcomes
    ]
    save(args.out, "served", where, {"figures": found, "clips": said})


if __name__ == "__main__":
    main()
