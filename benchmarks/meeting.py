"""Meetings made of recorded people: who spoke when, and what they said, through the server and `wavllm meeting`.

    python benchmarks/meeting.py PACK [--checkpoint DIR] [--meetings 3] [--turns 30] [--speed 6]

Clips of so762's dev speakers, one after the other without overlap: turns of one to three clips with 0.1 to 0.3 s
between them; after every other turn, by chance, the next person begins within 0.2 s, else after 0.6 to 1.2 s. DER by
simpleder, no collar, pauses below 0.3 s of one speaker filled in the reference; cpWER by meeteval.
Needs: pip install 'wavllm-agent[bench]'.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _report import PACK, announce, machine, parser, require, save, table
from rich.console import Console

from agent.config import AgentConfig
from agent.transport.server import serve
from agent.voices.enrolment import hear_samples
from agent.voices.listening import Recording
from agent.voices.people import People
from agent.voices.speakers import SpeakerOptions
from agent.voices.store import Person, VoiceStore
from agent.voices.voiced import measure_voicing
from clients.file import Line
from clients.meeting.run import hold_meeting
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.live import LiveEngine
from wavllm_core.evaluate.metrics import normalise
from wavllm_core.train.corpus import read_pack, speech_span
from wavllm_core.voices import VoiceScale, load_scale

RATE = 16_000
ENROLLED = 3  # clips of each person, kept out of the meetings
FILL_S = 0.3
Clips = dict[str, list[tuple[npt.NDArray[np.int16], str]]]  # by speaker: audio, words
Spans = list[tuple[str, float, float]]  # speaker, start and end in seconds


@dataclass(frozen=True)
class Meeting:
    waveform: npt.NDArray[np.float32]
    spans: Spans
    words: dict[str, str]  # by speaker


def read_people(pack: Path) -> Clips:
    people: Clips = defaultdict(list)
    for clip, pcm in read_pack(pack, lambda clip: clip.source == "so762" and clip.split == "dev"):
        start, end = speech_span(pcm)
        people[clip.speaker].append((pcm[start:end], normalise(clip.text)))
    return dict(sorted(people.items()))


def make_meeting(people: Clips, who: list[str], turns: int, rng: random.Random) -> Meeting:
    left = {name: rng.sample(people[name][ENROLLED:], len(people[name]) - ENROLLED) for name in who}
    room = np.random.default_rng(rng.randrange(2**32))
    parts: list[npt.NDArray[np.int16]] = []
    spans: Spans = []
    words: dict[str, list[str]] = defaultdict(list)

    def pause(seconds: float) -> None:
        parts.append(room.normal(0, 20, int(seconds * RATE)).astype(np.int16))

    pause(0.5)
    last = ""
    for _ in range(turns):
        others = [name for name in who if name != last and left[name]]
        if not others:
            break
        last = rng.choice(others)
        for _ in range(min(len(left[last]), rng.choice((1, 1, 2, 3)))):
            pcm, text = left[last].pop()
            start = sum(map(len, parts)) / RATE
            parts.append(pcm)
            words[last].append(text)
            end = start + len(pcm) / RATE
            if spans and spans[-1][0] == last and start - spans[-1][2] <= FILL_S:
                spans[-1] = (last, spans[-1][1], end)
            else:
                spans.append((last, start, end))
            pause(rng.uniform(0.1, 0.3))
        pause(rng.uniform(0.6, 1.2) if rng.random() < 0.5 else rng.uniform(0, 0.2))
    pause(1.0)
    waveform = np.concatenate(parts).astype(np.float32) / 32_768
    return Meeting(waveform, spans, {name: " ".join(said) for name, said in words.items()})


async def enrol(engine: LiveEngine, people: People, clips: Clips, who: list[str]) -> None:
    """As they are: whether three clips are alike enough is what benchmarks/speakers.py measures."""
    for name in who:
        recordings = [
            Recording(f"{name} {i}", pcm.astype(np.float32) / 32_768, measure_voicing(pcm.astype(np.float32) / 32_768))
            for i, (pcm, _) in enumerate(clips[name][:ENROLLED])
        ]
        vectors = np.stack([sample.vector for sample in await hear_samples(engine, recordings)])
        people.store.add(Person(name, vectors, people.scale.fingerprint))
    people.refresh()


async def hold(meeting: Meeting, engine: LiveEngine, speakers: SpeakerOptions, speed: float) -> tuple[Spans, dict]:
    """What the minutes say: who spoke when, and what each said."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig()
    config = replace(config, server=replace(config.server, port=0))
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.TaskGroup() as tasks:
            server = tasks.create_task(serve(config, engine, on_ready=port.set_result, speakers=speakers))
            url = f"ws://127.0.0.1:{await port}/v1/realtime"
            screen = Console(file=io.StringIO())
            await hold_meeting([Line(waveform=meeting.waveform)], screen, Path(folder), url, speed=speed)
            server.cancel()
        spans: Spans = []
        words: dict[str, list[str]] = defaultdict(list)
        for line in json.loads((Path(folder) / "minutes.json").read_text())["lines"]:
            spans.append((line["speaker"], line["start_ms"] / 1000, line["end_ms"] / 1000))
            words[line["speaker"]].append(normalise(line["text"]))
    return spans, {name: " ".join(said) for name, said in words.items()}


async def measure(pack: Path, checkpoint: Path, meetings: int, turns: int, speed: float) -> list[list[object]]:
    import meeteval
    import simpleder

    clips, scale, rows = read_people(pack), load_scale(checkpoint), []
    engine = LiveEngine.load(checkpoint)
    try:
        for count in (2, 4):
            for known in (False, True):
                errors = seconds = mistakes = length = 0.0
                found = []
                for seed in range(meetings):
                    rng = random.Random(100 * count + seed)
                    who = rng.sample(list(clips), count)
                    meeting = make_meeting(clips, who, turns, rng)
                    speakers = await options(engine, scale, clips, who if known else [])
                    spans, words = await hold(meeting, engine, speakers, speed)
                    spoken = sum(end - start for _, start, end in meeting.spans)
                    errors += simpleder.DER(meeting.spans, spans) * spoken
                    seconds += spoken
                    score = meeteval.wer.cp_word_error_rate(meeting.words, words)
                    mistakes, length = mistakes + score.errors, length + score.length
                    found.append(len({name for name, _, _ in spans}))
                rows.append(
                    [
                        count,
                        "enrolled" if known else "unknown",
                        meetings,
                        round(seconds),
                        100 * errors / seconds,
                        100 * mistakes / length,
                        " ".join(map(str, found)),
                    ]
                )
    finally:
        await engine.close()
    return rows


async def options(engine: LiveEngine, scale: VoiceScale, clips: Clips, known: list[str]) -> SpeakerOptions:
    if not known:
        return SpeakerOptions(scale)
    people = People(VoiceStore(Path(tempfile.mkdtemp()) / "voices.db"), scale)
    await enrol(engine, people, clips, known)
    return SpeakerOptions(scale, people)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("pack", type=Path, nargs="?", help="tar of speech with a manifest.csv")
    arguments.add_argument("--checkpoint", type=Path, default=NANO)
    arguments.add_argument("--meetings", type=int, default=3, help="of each kind")
    arguments.add_argument("--turns", type=int, default=30)
    arguments.add_argument("--speed", type=float, default=6.0, help="times real time")
    given = arguments.parse_args()
    require(given.pack, PACK)
    where = machine()
    rows = asyncio.run(measure(given.pack, given.checkpoint, given.meetings, given.turns, given.speed))
    announce(where)
    heads = ["voices", "they are", "meetings", "s of speech", "DER %", "cpWER %", "voices found"]
    table(heads, rows)
    save(given.out, "meeting", where, {"rows": [dict(zip(heads, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
