"""What is taken for a voice when somebody is enrolled: recorded people, and everything else.

    python benchmarks/enrolment.py PACK [--people 300]

ESC-10's noises, and clips of so762's people; the limits were chosen on the split `train`. "By pitch" is what the
signal alone says, "and speech" what is left when Silero's detector has to hear speech in it, too. Then recordings of
one dev speaker, and of two one after the other: how many are refused because two seem to speak.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from _report import PACK, announce, machine, parser, require, save, table

from agent.voices.diarization import parts_alike, windows
from agent.voices.people import MIN_ONE_VOICE, is_voice
from agent.voices.setup import build_detector
from agent.voices.voiced import Voicing, measure_voicing
from wavllm_core.checkpoint import NANO, load
from wavllm_core.evaluate.listener import Listener
from wavllm_core.train.corpus import Clip, Pcm, read_pack, speech_span
from wavllm_core.voices import load_scale

RATE = 16_000
KITCHEN = "kitchen"  # a recording of minutes, which is none of ESC-10


def choose(pack: Path, people: int, rng: random.Random) -> list[tuple[Clip, Pcm]]:
    """All noises, and so many clips of people of each split."""
    noises = list(read_pack(pack, lambda clip: clip.source == "noise" and KITCHEN not in clip.file))
    spoken: dict[str, list[Clip]] = defaultdict(list)
    for clip, _ in read_pack(pack, lambda clip: clip.source == "so762"):
        spoken[clip.split].append(clip)
    wanted = {clip.file for clips in spoken.values() for clip in rng.sample(clips, min(people, len(clips)))}
    return [*noises, *read_pack(pack, lambda clip: clip.file in wanted)]


def refuse_pairs(clips: list[tuple[Clip, Pcm]], draws: int, rng: random.Random) -> list[list[object]]:
    """By seconds of a recording: of one person refused, of two."""
    people: dict[str, list[Pcm]] = defaultdict(list)
    for clip, pcm in clips:
        start, end = speech_span(pcm)
        people[clip.speaker].append(pcm[start:end])
    listener, scale = Listener(load(NANO)), load_scale(NANO)

    def say(name: str, seconds: float) -> Pcm:
        return np.concatenate(rng.sample(people[name], len(people[name])))[: int(seconds * RATE)]

    def refused(pcm: Pcm) -> bool:
        waveforms = windows(pcm.astype(np.float32) / 32_768)
        vectors = [listener.voice((waveform * 32_768).astype(np.int16)) for waveform in waveforms]
        return scale.confidence(parts_alike(vectors)) < MIN_ONE_VOICE

    rows: list[list[object]] = []
    for seconds in (4, 6, 8):
        one = two = 0
        for _ in range(draws):
            name, other = rng.sample(sorted(people), 2)
            one += refused(say(name, seconds))
            two += refused(np.concatenate([say(name, seconds / 2), say(other, seconds / 2)]))
        rows.append([f"{seconds} s", 100 * one / draws, 100 * two / draws])
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?")
    options.add_argument("--people", type=int, default=300, help="clips of each split")
    options.add_argument("--draws", type=int, default=100, help="recordings of each length")
    given = options.parse_args()
    require(given.pack, PACK)
    where = machine()
    announce(where)
    detect = build_detector()
    found: dict[tuple[str, str], list[Voicing]] = defaultdict(list)
    for clip, pcm in choose(given.pack, given.people, random.Random(0)):
        voicing = measure_voicing(pcm.astype(np.float32) / 32_768, detect)
        for kind in [clip.label, "all noises"] if clip.source == "noise" else ["people"]:
            found[kind, clip.split].append(voicing)
    rows = []
    for kind in sorted({kind for kind, _ in found}):
        row: list[object] = [kind]
        for split in ("train", "dev"):
            voicings = found[kind, split]
            by_pitch = sum(is_voice(replace(voicing, speech=1.0)) for voicing in voicings)
            row += [len(voicings), by_pitch, sum(map(is_voice, voicings))]
        rows.append(row)
    columns = ["", *(f"{split} {what}" for split in ("train", "dev") for what in ("clips", "by pitch", "and speech"))]
    table(columns, rows)
    spoken = list(read_pack(given.pack, lambda clip: clip.source == "so762" and clip.split == "dev"))
    pairs = refuse_pairs(spoken, given.draws, random.Random(0))
    table(["recording", "of one person, refused %", "of two %"], pairs)
    save(given.out, "enrolment", where, {"columns": columns, "rows": rows, "pairs": pairs})


if __name__ == "__main__":
    main()
