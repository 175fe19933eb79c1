"""The voice detectors of the server side by side, on people in other rooms' noise and on noise alone.

Clips and noise are of the dev split of a pack of recordings. Each clip stands between two pauses of two seconds, and
the noise runs through all of it, so many decibels below the speech. A frame of 20 ms counts as speech where the clean
clip is at most 30 dB below its loud parts, as pause where it lies 300 ms and more from any such frame; the rest is
not counted. Turns are those that the turn table makes of the flags. Processor time is that of the detector alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _report import PACK, announce, machine, parser, require, save, table

from agent.hearing.silero import SileroVad, load_silero
from agent.hearing.turns import Listening, SpeechStarted, SpeechStopped, TurnRules, advance
from agent.hearing.vad import FRAME_BYTES, FRAME_SAMPLES, SAMPLE_RATE, Vad, WebRtcVad
from wavllm_core.train.augment import mix
from wavllm_core.train.corpus import read_pack

PAUSE_SAMPLES = SAMPLE_RATE * 2
SPEECH_DB, MARGIN_FRAMES = -30, 15
SNRS_DB = (None, 20, 15, 10, 5)  # None: clean
NOISE_DB = (-40, -30, -20)  # of full scale, noise alone
Waveform = np.ndarray


@dataclass
class Score:
    """Counts over many streams."""

    speech: int = 0  # frames
    heard: int = 0
    pause: int = 0
    imagined: int = 0
    clips: int = 0
    missed: int = 0  # without any turn where someone speaks
    false_turns: int = 0  # where nobody does
    cut: int = 0  # clips in more than one turn
    seconds: float = 0.0
    cpu_s: float = 0.0

    def add(self, flags: list[bool], speech: np.ndarray) -> None:
        padded = np.pad(speech, MARGIN_FRAMES)
        near = np.lib.stride_tricks.sliding_window_view(padded, 2 * MARGIN_FRAMES + 1).any(axis=1)
        said = np.array(flags)
        self.speech += speech.sum()
        self.heard += (said & speech).sum()
        self.pause += (~near).sum()
        self.imagined += (said & ~near).sum()
        turns = [near[start:end].any() for start, end in turns_of(flags)]
        self.clips += bool(speech.any())
        self.missed += bool(speech.any()) and not any(turns)
        self.cut += sum(turns) > 1
        self.false_turns += len(turns) - sum(turns)
        self.seconds += len(flags) * FRAME_SAMPLES / SAMPLE_RATE


def turns_of(flags: list[bool]) -> Iterator[tuple[int, int]]:
    """First and last frame of every turn."""
    state, start, rules = Listening(0, 0), None, TurnRules(prefix_samples=0)
    for flag in flags:
        state, event = advance(rules, state, voiced=flag)
        if isinstance(event, SpeechStarted):
            start = event.start_sample // FRAME_SAMPLES
        elif isinstance(event, SpeechStopped):
            yield start, event.last_voiced_sample // FRAME_SAMPLES
            start = None
    if start is not None:
        yield start, len(flags)


def loudness_db(waveform: Waveform) -> np.ndarray:
    frames = waveform[: len(waveform) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)


def speech_frames(waveform: Waveform) -> np.ndarray:
    loudness = loudness_db(waveform)
    return loudness > np.percentile(loudness, 95) + SPEECH_DB


def run(vad: Vad, waveform: Waveform, score: Score) -> list[bool]:
    pcm = (np.clip(waveform, -1, 1) * 32_767).astype("<i2").tobytes()
    frames = [pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm) - FRAME_BYTES + 1, FRAME_BYTES)]
    started = time.process_time()
    flags = [vad.is_speech(frame) for frame in frames]
    score.cpu_s += time.process_time() - started
    return flags


Detectors = dict[str, Callable[[], Vad]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?", help="a tar of recordings, with dev clips and noise")
    options.add_argument("--clips", type=int, default=40, help="of each source")
    args = options.parse_args()
    require(args.pack, PACK)
    by_source: dict[str, list[Waveform]] = {}
    for clip, pcm in read_pack(args.pack, lambda clip: clip.split == "dev"):
        by_source.setdefault(clip.source, []).append(pcm.astype(np.float32) / 32_768)
    rng, noises = random.Random(0), by_source.pop("noise")
    chosen = [one for clips in by_source.values() for one in rng.sample(clips, min(args.clips, len(clips)))]
    model = load_silero()
    detectors: Detectors = {
        "webrtcvad 0.5": lambda: WebRtcVad(0.5),
        "webrtcvad 0.75": lambda: WebRtcVad(0.75),
        "silero-vad 0.5": lambda: SileroVad(model, 0.5),
    }
    where = machine()
    announce(where)
    figures = among_speech(detectors, chosen, noises)
    print(f"{len(chosen)} clips of {', '.join(f'{source} ({len(clips)})' for source, clips in by_source.items())}\n")
    figures |= alone(detectors, noises)
    scores = {name: {key: float(value) for key, value in vars(score).items()} for name, score in figures.items()}
    save(args.out, "vad", where, {"scores": scores})


def among_speech(detectors: Detectors, clips: list[Waveform], noises: list[Waveform]) -> dict[str, Score]:
    """Each clip between two pauses, clean and in noise."""
    rows, figures = [], {}
    for name, make in detectors.items():
        for snr_db in SNRS_DB:
            score, rng = Score(), random.Random(1)
            for clip in clips:
                padded = np.pad(clip, PAUSE_SAMPLES)
                speech = speech_frames(padded)
                if snr_db is not None:
                    padded = mixed(padded, np.resize(rng.choice(noises), len(padded)), speech, snr_db)
                score.add(run(make(), padded, score), speech)
            condition = "clean" if snr_db is None else f"{snr_db} dB"
            figures[f"{name}, {condition}"] = score
            shares = (
                (score.heard, score.speech), (score.imagined, score.pause),
                (score.missed, score.clips), (score.cut, score.clips),
            )  # fmt: skip
            minutes = score.pause * FRAME_SAMPLES / SAMPLE_RATE / 60
            percents = [100 * part / whole for part, whole in shares]
            rows.append([name, condition, *percents, score.false_turns / minutes, 1e6 * score.cpu_s / score.seconds])
    heads = ["detector", "noise", "speech heard, %", "pause taken for speech, %", "clips without a turn, %"]
    table([*heads, "clips in pieces, %", "false turns a minute of pause", "CPU, µs a second"], rows)
    return figures


def alone(detectors: Detectors, noises: list[Waveform]) -> dict[str, Score]:
    """Noise where nobody speaks, at several levels."""
    rows, figures = [], {}
    for name, make in detectors.items():
        for level_db in NOISE_DB:
            score = Score()
            for noise in noises:
                loud = noise * 10 ** ((level_db - 10 * np.log10(np.mean(noise**2) + 1e-12)) / 20)
                flags = run(make(), loud, score)
                score.add(flags, np.zeros(len(flags), bool))
            figures[f"{name}, noise alone at {level_db} dBFS"] = score
            share, rate = 100 * score.imagined / score.pause, 60 * score.false_turns / score.seconds
            rows.append([name, f"{level_db} dBFS", share, score.false_turns, rate])
    table(["detector", "noise alone", "taken for speech, %", f"turns of {len(noises)} clips", "turns a minute"], rows)
    return figures


def mixed(padded: Waveform, noise: Waveform, speech: np.ndarray, snr_db: float) -> Waveform:
    """The noise is so much below the speech, pauses left out of account."""
    share = np.repeat(speech, FRAME_SAMPLES)
    active = padded[: len(share)][share]
    power_ratio = np.mean(active**2) / np.mean(padded**2)
    return mix(padded, noise, snr_db + 10 * np.log10(1 / power_ratio))


if __name__ == "__main__":
    main()
