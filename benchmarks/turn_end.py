"""When is a turn over? A fixed silence against `semantic_vad`, on recorded people: turns cut short, and the wait.

Clips of the dev split are played as they are, and once more with a second of silence at the quietest 60 ms of their
middle half, as somebody hesitates. At every pause the score of what the encoders have heard decides how long that
pause has to last. A turn is cut short when it ends in a pause that is not its last.

`--fit` makes the scorer of the shipped model anew, from clips of the train split: whole ones, and the same ones cut
off where they are quiet. Both end in the same way, faded out and then 100 ms of near silence.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _report import PACK, announce, machine, parser, percentile, require, save, table

from agent.hearing.listener import Listener, Speech, to_waveform
from agent.hearing.silero import SileroModel, SileroVad, load_silero
from agent.hearing.turn_end import PATIENCE, silence_ms
from agent.hearing.turns import SpeechPaused, TurnRules
from agent.hearing.vad import FRAME_SAMPLES, SAMPLE_RATE
from wavllm_core.checkpoint import NANO, TIED_HEAD, load
from wavllm_core.engine.api import Heard
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.llama import PREFIX
from wavllm_core.model import RollingWavLLM
from wavllm_core.train.corpus import Clip, read_pack
from wavllm_core.turn_end import TurnEnd, features, find_turn_end, fingerprint, save_turn_end

HOP = FRAME_SAMPLES
LONG_SAMPLES = 8 * SAMPLE_RATE  # no pause ends a turn while pauses are collected
CUTS = {"s2i": (220, 2), "so762": (160, 1), "wake": (60, 1), "fsdd": (60, 0), "librispeech": (60, 2)}  # clips, pieces
NEVER_WHOLE = "librispeech"  # its clips end anywhere
DECAY = 0.03
FIXED_MS = (300, 500, 700, 1_000)
Waveform = np.ndarray


def powers(waveform: Waveform) -> np.ndarray:
    """Of every 60 ms, each 20 ms."""
    return np.array([np.mean(waveform[at : at + 3 * HOP] ** 2) for at in range(0, len(waveform) - 3 * HOP, HOP)])


def spoken_span(power: np.ndarray) -> tuple[int, int]:
    spoken = np.flatnonzero(power > 0.003 * np.percentile(power, 95))
    return int(spoken[0]), int(spoken[-1])


def ended(waveform: Waveform, end: int, rng: np.random.Generator) -> Waveform:
    """Up to there, with what the server gives the model before and after."""
    kept = waveform[:end].copy()
    kept[-HOP:] *= np.linspace(1, 0, len(kept[-HOP:]), dtype=np.float32)
    kept = np.pad(kept, (int(rng.uniform(0.1, 0.3) * SAMPLE_RATE), SAMPLE_RATE // 10))
    return kept + rng.normal(0, 3e-4, len(kept)).astype(np.float32)


def whole_and_cut(waveform: Waveform, cuts: int, rng: np.random.Generator) -> Iterator[tuple[Waveform, bool]]:
    power = powers(waveform)
    first, last = spoken_span(power)
    yield ended(waveform, min(len(waveform), HOP * (last + 5)), rng), True
    span = power[first : last + 1]
    quiet = [
        at
        for at in range(len(span) // 5, int(0.85 * len(span)))
        if span[at] == span[max(0, at - 8) : at + 9].min() and span[at] < 0.3 * np.median(span)
    ]
    for at in rng.permutation(quiet)[:cuts]:
        yield ended(waveform, HOP * (first + int(at) + 1) + HOP // 2, rng), False


def sample(pack: Path, split: str, counts: dict[str, int]) -> Iterator[tuple[str, Waveform]]:
    """So many clips of each source, the first of a shuffled list."""
    names: dict[str, list[str]] = {}

    def note(clip: Clip) -> bool:
        if clip.split == split and clip.source in counts:
            names.setdefault(clip.source, []).append(clip.file)
        return False

    list(read_pack(pack, note))
    rng = random.Random(0)
    chosen = {file for source, files in names.items() for file in rng.sample(files, min(counts[source], len(files)))}
    for clip, pcm in read_pack(pack, lambda clip: clip.file in chosen):
        if SAMPLE_RATE // 4 < len(pcm) < 12 * SAMPLE_RATE:
            yield clip.source, pcm.astype(np.float32) / 32_768


def fit(pack: Path) -> TurnEnd:
    """Logistic regression with weight decay, inputs scaled to unit variance."""
    checkpoint, rng = load(NANO), np.random.default_rng(0)
    model = RollingWavLLM(checkpoint.config).eval().requires_grad_(False)
    model.load_state_dict(checkpoint.tensors | {TIED_HEAD: checkpoint.tensors[f"{PREFIX}embed_tokens.weight"]})
    rows, labels = [], []
    with torch.inference_mode():
        for source, waveform in sample(pack, "train", {name: clips for name, (clips, _) in CUTS.items()}):
            for piece, whole in whole_and_cut(waveform, CUTS[source][1], rng):
                if not (whole and source == NEVER_WHOLE):
                    rows.append(features(model.encode(torch.from_numpy(piece)[None]).speech_embeds[0]))
                    labels.append(float(whole))
    inputs, wanted = torch.stack(rows).clone(), torch.tensor(labels)
    mean, scale = inputs.mean(dim=0), inputs.std(dim=0) + 1e-3
    weights, bias = torch.zeros(inputs.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=200)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = (inputs - mean) / scale @ weights + bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted) + DECAY * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    plain = (weights / scale).detach()
    whole = int(wanted.sum())
    print(f"fitted to {whole} whole clips and {len(labels) - whole} that were cut off, loss {loss().item():.3f}")
    return TurnEnd(
        fingerprint(NANO),
        round(float(bias.detach() - mean @ plain), 4),
        [round(weight, 4) for weight in plain.tolist()],
        f"{whole} whole and {len(labels) - whole} cut clips of {', '.join(CUTS)}, train split",
    )


@dataclass(frozen=True)
class Pause:
    """What was known after some words, and how long it lasted; the last one has no end."""

    score: float
    samples: int


def hesitating(waveform: Waveform) -> Waveform:
    power = powers(waveform)
    first, last = spoken_span(power)
    quarter = (last - first) // 4
    place = HOP * (first + quarter + int(np.argmin(power[first + quarter : last - quarter + 1])) + 1) + HOP // 2
    return np.concatenate([waveform[:place], np.zeros(SAMPLE_RATE, np.float32), waveform[place:]])


async def pauses(
    engine: LiveEngine, waveform: Waveform, model: SileroModel, score: Callable[[Heard], float]
) -> list[Pause]:
    """Every pause of a clip that is as long as the tail."""
    padded = np.pad(waveform, (SAMPLE_RATE // 2, SAMPLE_RATE))
    pcm = (np.clip(padded, -1, 1) * 32_767).astype("<i2").tobytes()
    listener = Listener(SileroVad(model, 0.5), TurnRules(silence_samples=LONG_SAMPLES), 0)
    found: list[Pause] = []
    context = engine.open_context()
    utterance, paused_at = context.open_utterance(), None
    for start in range(0, len(pcm), 2 * FRAME_SAMPLES):
        for event in listener.feed(pcm[start : start + 2 * FRAME_SAMPLES]):
            if isinstance(event, Speech):
                utterance.push(to_waveform(event.pcm))
                if paused_at is not None:
                    found[-1] = Pause(found[-1].score, start // 2 - paused_at)
                    paused_at = None
            elif isinstance(event, SpeechPaused):
                found.append(Pause(score(await utterance.hear()), LONG_SAMPLES))
                paused_at = event.end_sample - TurnRules().tail_frames * FRAME_SAMPLES
    utterance.cancel()
    context.close()
    return found


def judge(trials: Sequence[Sequence[Pause]], rule: Callable[[float], int]) -> tuple[float, list[int]]:
    """Turns cut short, in per cent, and the waits of the others in ms."""
    waits = []
    for trial in trials:
        *inner, last = [(16 * rule(pause.score), pause.samples) for pause in trial]
        if all(needed > lasted for needed, lasted in inner):
            waits.append(last[0] // 16)
    return 100 * (1 - len(waits) / len(trials)), waits


async def measure(pack: Path, clips: int) -> dict[str, list[list[Pause]]]:
    engine, model, score = LiveEngine.load(NANO, EngineLimits()), load_silero(), find_turn_end(None)
    assert score, "the shipped model has no scorer of its own; run --fit"
    trials: dict[str, list[list[Pause]]] = {}
    for source, waveform in sample(pack, "dev", dict.fromkeys(("s2i", "so762", "wake", "fsdd"), clips)):
        trials.setdefault(source, []).append(await pauses(engine, waveform, model, score))
        if source in ("s2i", "so762"):
            hesitated = await pauses(engine, hesitating(waveform), model, score)
            trials.setdefault(f"{source}, hesitating", []).append(hesitated)
    await engine.close()
    return {source: [trial for trial in found if trial] for source, found in trials.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("pack", type=Path, nargs="?", help="a tar of recordings with a manifest")
    options.add_argument("--clips", type=int, default=40, help="of each source")
    options.add_argument("--fit", action="store_true", help="make the scorer instead")
    args = options.parse_args()
    require(args.pack, PACK)
    torch.set_num_threads(args.threads)
    if args.fit:
        save_turn_end(NANO, fit(args.pack))
        return
    trials = asyncio.run(measure(args.pack, args.clips))
    where = machine()
    announce(where)
    rules: dict[str, Callable[[float], int]] = {f"server_vad, {ms} ms": lambda _, ms=ms: ms for ms in FIXED_MS}
    rules |= {f"semantic_vad, {name}": lambda score, name=name: silence_ms(name, score) for name in PATIENCE}
    rows, figures = [], {}
    for name, rule in rules.items():
        for source, found in trials.items():
            cut, waits = judge(found, rule)
            shares = [percentile(waits, share) for share in (0.5, 0.95)] if waits else ["-"] * 2
            mean = float(np.mean(waits)) if waits else "-"
            rows.append([name, source, len(found), cut, mean, *shares])
            figures[f"{name}, {source}"] = {"turns": len(found), "cut_percent": cut, "waits_ms": waits}
    table(["turn detection", "clips", "turns", "cut short, %", "wait, mean ms", "p50 ms", "p95 ms"], rows)
    save(args.out, "turn_end", where, {"figures": figures})


if __name__ == "__main__":
    main()
