"""How well voices are told apart and known again, and whether two people get an answer each.

    python benchmarks/speakers.py PACK [--checkpoint DIR] [--draws 200]

so762's dev speakers (45), three clips each enrolled, stretches of 2, 4 and 8 s cut out of the others joined. Open set:
ten people enrolled, one of them or a stranger speaks. Orders: s2i's dev clips, two of different people in one
conversation; then each asks "what did i order", typed, under the number that its voice got.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _report import PACK, announce, machine, parser, require, save, table

from agent.errors import EnrolmentError
from agent.voices.naming import seen_by_model
from agent.voices.people import Sample, check_samples, likeness
from agent.voices.speakers import Speakers
from agent.voices.voiced import Voicing, measure_voicing
from wavllm_core.checkpoint import NANO, load
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import equal_error_rate
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.corpus import Clip, Pcm, read_pack, speech_span
from wavllm_core.train.orders import parse
from wavllm_core.voices import VoiceScale, load_scale

RATE = 16_000
ENROLLED, PEOPLE, STRETCHES = 3, 10, 6
LIMITS = (0.4, 0.45, 0.5, 0.55, 0.6)  # of known_similarity
SPOKEN = Voicing(1.0, 1.0, 0.0)
Vectors = np.ndarray  # (clips, dim)


def read_clips(pack: Path, source: str) -> dict[str, list[tuple[Clip, Pcm]]]:
    people: dict[str, list[tuple[Clip, Pcm]]] = {}
    for clip, pcm in read_pack(pack, lambda clip: clip.source == source and clip.split == "dev"):
        start, end = speech_span(pcm)
        people.setdefault(clip.speaker, []).append((clip, pcm[start:end]))
    return people


def stretch(clips: list[tuple[Clip, Pcm]], seconds: float, rng: random.Random) -> Pcm:
    joined = np.concatenate([pcm for _, pcm in rng.sample(clips, len(clips))])
    start = rng.randrange(max(1, len(joined) - int(seconds * RATE)))
    return joined[start : start + int(seconds * RATE)]


@dataclass(frozen=True)
class Nearest:
    """What one utterance is taken for, in an open set."""

    similarity: float  # to the one of ten enrolled people whom it resembles most
    right: bool  # it is that one
    stranger: bool  # it is none of the ten


def identification(
    enrolled: dict[str, Vectors], heard: dict[str, Vectors], draws: int, rng: random.Random
) -> tuple[float, list[Nearest]]:
    """The EER in per cent, and what was found of ten people and ten strangers, so many times."""
    names = list(enrolled)
    means = {name: vectors.mean(axis=0) for name, vectors in enrolled.items()}
    pairs = [(likeness(means[a], vector), a == b) for a in names for b in names for vector in heard[b]]
    eer, _ = equal_error_rate(np.array([s for s, _ in pairs]), np.array([same for _, same in pairs]))
    found = []
    for _ in range(draws):
        chosen = rng.sample(names, 2 * PEOPLE)
        known, strangers = chosen[:PEOPLE], chosen[PEOPLE:]
        for name in chosen:
            vector = heard[name][rng.randrange(STRETCHES)]
            similarity, best = max((likeness(means[other], vector), other) for other in known)
            found.append(Nearest(similarity, best == name, name in strangers))
    return eer, found


def shares(found: list[Nearest], limit: float) -> list[float]:
    """Per cent by this limit for a name: known people who get their own, who get none, strangers who get one."""
    known, strangers = ([one for one in found if one.stranger == stranger] for stranger in (False, True))
    own = sum(one.right and one.similarity >= limit for one in known)
    none = sum(one.similarity < limit for one in known)
    taken = sum(one.similarity >= limit for one in strangers)
    return [100 * own / len(known), 100 * none / len(known), 100 * taken / len(strangers)]


def enrolments(vectors: dict[str, Vectors], scale: VoiceScale, draws: int, rng: random.Random) -> tuple[float, float]:
    """How often three utterances of one person are refused, and two of one with one of another."""

    def refused(rows: list[np.ndarray]) -> bool:
        try:
            check_samples([Sample(str(i), row, SPOKEN) for i, row in enumerate(rows)], scale)
        except EnrolmentError:
            return True
        return False

    one = mixed = 0
    for _ in range(draws * PEOPLE):
        a, b = rng.sample(list(vectors), 2)
        one += refused(rng.sample(list(vectors[a]), 3))
        mixed += refused([*rng.sample(list(vectors[a]), 2), rng.choice(list(vectors[b]))])
    return 100 * one / (draws * PEOPLE), 100 * mixed / (draws * PEOPLE)


def two_people(
    listener: Listener, orders: list[tuple[Clip, Pcm]], scale: VoiceScale, pairs: int, rng: random.Random
) -> dict[str, list[int]]:
    """By memory: pairs told apart, questions asked, answered with the right drink, with the whole right order."""
    figures = {"shared": [0, 0, 0, 0], "own": [0, 0, 0, 0]}
    for _ in range(pairs):
        chosen, speakers, history, numbers = rng.sample(orders, 2), Speakers(scale), [], []
        for _, pcm in chosen:
            heard = listener.hear(pcm)
            numbers.append(speakers.assign(listener.voice(pcm), heard.seconds).number)
            reply = listener.ask(heard, history=tuple(history))
            history.append(Exchange(listener.ask(heard, TRANSCRIBE), speaker=numbers[-1], reply=reply))
        for memory, counts in figures.items():
            counts[0] += numbers == [1, 2]
            for (clip, _), number in zip(chosen, numbers, strict=True):
                asked = [*history, Exchange("what did i order", speaker=number)]
                seen = seen_by_model(asked, {}, "own" if memory == "own" else "shared", asked[-1].speaker)
                said = "".join(listener.decoder.reply(seen, "", Sampling()))
                given = parse(said)
                counts[1] += 1
                counts[2] += given is not None and given.coffeeDrink == clip.order.coffeeDrink
                counts[3] += given == clip.order
    return figures


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("pack", type=Path, nargs="?", help="tar of speech with a manifest.csv")
    arguments.add_argument("--checkpoint", type=Path, default=NANO)
    arguments.add_argument("--draws", type=int, default=200, help="of ten people and ten strangers")
    arguments.add_argument("--pairs", type=int, default=40, help="of people who order")
    given = arguments.parse_args()
    require(given.pack, PACK)
    torch.set_num_threads(given.threads)
    where, rng = machine(), random.Random(7)
    listener, scale = Listener(load(given.checkpoint)), load_scale(given.checkpoint)
    clips = read_clips(given.pack, "so762")
    vectors = {name: np.stack([listener.voice(pcm) for _, pcm in said]) for name, said in clips.items()}
    enrolled = {name: rows[:ENROLLED] for name, rows in vectors.items()}
    rows, limits = [], []
    for seconds in (2, 4, 8):
        heard = {
            name: np.stack([listener.voice(stretch(said[ENROLLED:], seconds, rng)) for _ in range(STRETCHES)])
            for name, said in clips.items()
        }
        eer, found = identification(enrolled, heard, given.draws, rng)
        nearest = 100 * sum(one.right for one in found) / sum(not one.stranger for one in found)
        rows.append([f"{seconds} s", eer, nearest, *shares(found, scale.limit_to_know)])
        by_limit = [shares(found, limit) for limit in LIMITS]
        limits.append([f"{seconds} s", *(f"{own:.1f}, {taken:.1f}" for own, _, taken in by_limit)])
    refused = enrolments(vectors, scale, given.draws, rng)
    voiced = [measure_voicing(pcm.astype(np.float32) / 32_768) for said in clips.values() for _, pcm in said]
    answers = two_people(listener, read_clips(given.pack, "s2i")[""], scale, given.pairs, rng)
    announce(where)
    print(
        f"{scale.same_similarity} is the limit for one voice, {scale.limit_to_know} for a name; {scale.measured_on}.\n"
    )
    heads = ["speech", "EER %", "nearest of 10 %", "known, right %", "known, refused %", "strangers taken %"]
    table(heads, rows)
    print("By known_similarity: known people who get their own name, strangers who get one, %.\n")
    table(["speech", *map(str, LIMITS)], limits)
    table(
        ["enrolment of three utterances", "refused %"], [["of one person", refused[0]], ["one of another", refused[1]]]
    )
    short = sum(voicing.seconds < 0.6 or voicing.share < 0.4 or voicing.still > 0.4 for voicing in voiced)
    print(f"{short} of {len(voiced)} clips have too little voice to be enrolled.\n")
    table(
        ["memory", "pairs told apart", "questions", "right drink", "all slots right"],
        [[memory, f"{counts[0]} of {given.pairs}", *counts[1:]] for memory, counts in answers.items()],
    )
    save(
        given.out, "speakers", where, {"identification": rows, "limits": limits, "refused": refused, "answers": answers}
    )


if __name__ == "__main__":
    main()
