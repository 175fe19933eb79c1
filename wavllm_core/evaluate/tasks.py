"""The dev split of a pack, put to a checkpoint: every answer comes from audio through the model."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from wavllm_core.engine.api import Exchange, Heard, Sampling
from wavllm_core.evaluate import instructed, speakers
from wavllm_core.evaluate.history import Question, questions
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import Share, normalise, share, word_error_rate
from wavllm_core.evaluate.voices import Voices, has_pairs, voice_error
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.batches import NOISE, event_of, known
from wavllm_core.train.corpus import Clip, Pcm, for_evaluation, read_pack, speech_span
from wavllm_core.train.dialogue import REFUSAL, Event, Scene
from wavllm_core.train.orders import SLOTS, parse, random_order, random_spoken_form
from wavllm_core.train.speakers import EMOTION, ONE_SPEAKER

SEED = 20261122  # of the orders that stand in the history
SNRS_DB = (6, 9, 12, 15, 18, 21, 24)
NOISY = "coffee orders in noise, all slots right"
AGES = {"under 10": range(10), "10 to 17": range(10, 18), "18 and more": range(18, 150)}
Noises = dict[str, list[Pcm]]  # "kitchen" and "other"


@dataclass
class Answers:
    """What the model said, clip by clip, by source."""

    said: dict[str, list[tuple[Clip, str, str]]] = field(default_factory=dict)  # clip, transcript, reply
    counted: list[tuple[str, str]] = field(default_factory=list)  # digits after an order: wanted, given
    questions: list[tuple[str, str]] = field(default_factory=list)  # typed, about the history: wanted, given
    noisy_orders: list[tuple[int, str, bool]] = field(default_factory=list)  # SNR in dB, kind of noise, all slots right
    instructed: list[instructed.Answered] = field(default_factory=list)  # orders that came with an instruction
    pairs: list[tuple[bool, str]] = field(default_factory=list)  # of clips: whether it is one speaker, and the answer
    emotions: list[tuple[str, str]] = field(default_factory=list)  # label, answer
    voices: Voices = field(default_factory=list)
    noisy_voices: Voices = field(default_factory=list)  # the same clips in noise
    gates: dict[str, float] = field(default_factory=dict)  # mean over the channels, by the name of the instruction


def collect(
    listener: Listener, pack: Path, limit: int | None, progress: Callable[[str], None], split: str = "dev"
) -> Answers:
    """Put every clip of the split to the model; at most `limit` of each source."""
    answers, rng, noises = Answers(), random.Random(SEED), read_noises(pack)
    noise_rng, lesson_rng, joiner = random.Random(SEED), random.Random(SEED), speakers.Joiner(random.Random(SEED))
    for clip, pcm in read_pack(pack, lambda clip: clip.split == split):
        rows = answers.said.setdefault(clip.source, [])
        if limit is not None and len(rows) >= limit:
            continue
        heard = listener.hear(pcm)
        if clip.source == "so762":
            answers.voices.append((clip.speaker, heard.speaker_vector))
            if noises:
                noisy = add_noise(pcm, noises, noise_rng.choice(list(noises)), noise_rng.choice(SNRS_DB), noise_rng)
                answers.noisy_voices.append((clip.speaker, listener.voice(noisy)))
            for same, pair in joiner.pairs(clip.speaker, pcm):
                answers.pairs.append((same, listener.ask(listener.hear(pair), ONE_SPEAKER)))
        if clip.prompt == EMOTION:
            answers.emotions.append((clip.label, listener.ask(heard, EMOTION)))
        transcript = listener.ask(heard, TRANSCRIBE) if known(clip) else ""
        rows.append((clip, transcript, listener.ask(heard)))
        if clip.source == "fsdd":
            answers.counted.append(count_after_order(listener, heard, clip, rng))
        if clip.order:
            answers.instructed += instructed.ask(
                clip.order, lesson_rng, partial(listener.ask, heard, max_tokens=instructed.MAX_TOKENS)
            )
        if clip.order and noises:
            kind = list(noises)[len(rows) % len(noises)]
            for snr_db in SNRS_DB:
                noisy = add_noise(pcm, noises, kind, snr_db, noise_rng)
                right = parse(listener.ask(listener.hear(noisy))) == clip.order
                answers.noisy_orders.append((snr_db, kind, right))
        progress(f"{clip.source} {len(rows)}")
    answers.questions = [ask_about_history(listener, question) for question in islice(questions(), limit)]
    answers.gates = {name: listener.gate(instruction) for name, instruction in instructed.INSTRUCTIONS.items()}
    return answers


def read_noises(pack: Path) -> Noises:
    """What training has not heard: the dev split's noises, and the last third of the kitchen."""
    noises: Noises = {}
    for clip, pcm in read_pack(pack, lambda clip: clip.source == NOISE):
        if clip.label == "kitchen":
            noises["kitchen"] = [for_evaluation(pcm)]
        elif clip.split == "dev":
            noises.setdefault("other", []).append(pcm)
    return noises


def add_noise(pcm: Pcm, noises: Noises, kind: str, snr_db: float, rng: random.Random) -> Pcm:
    """A clip with a stretch of noise all along, at a ratio of mean powers while there is speech."""
    noise = rng.choice(noises[kind])
    start, end = speech_span(pcm)
    stretch = np.take(noise, np.arange(len(pcm)) + rng.randrange(len(noise)), mode="wrap").astype(np.float32)
    power = np.mean(np.square(pcm[start:end].astype(np.float32))) / max(float(np.mean(np.square(stretch))), 1.0)
    return np.clip(pcm + stretch * np.sqrt(power / 10 ** (snr_db / 10)), -32768, 32767).astype(np.int16)


def ask_about_history(listener: Listener, question: Question) -> tuple[str, str]:
    """A typed question after typed turns: the right reply and the model's."""
    given = listener.decoder.reply([*question.history, question.asked], "", Sampling())
    return question.reply, "".join(given)


def count_after_order(listener: Listener, heard: Heard, clip: Clip, rng: random.Random) -> tuple[str, str]:
    """A spoken digit after a typed order: the right reply, which needs the history, and the model's."""
    scene, order = Scene(), random_order(rng)
    text = random_spoken_form(order, rng)
    past = Exchange(text, reply=scene.reply(Event(text, order=order), None))
    wanted = scene.reply(Event(clip.text, digit=clip.text), None)
    return wanted, listener.ask(heard, history=(past,))


def is_right(clip: Clip, reply: str) -> bool:
    """Whether it is the assistant's reply to a clip alone: of an order in all slots, else to the letter."""
    if clip.order:
        return parse(reply) == clip.order
    return normalise(reply) == normalise(Scene().reply(event_of(clip), None))


def score(answers: Answers) -> dict[str, object]:
    """Every figure of the report."""
    figures: dict[str, object] = {}
    for source, name in (("fsdd", "digits"), ("wake", "wake phrases")):
        rows = answers.said.get(source, [])
        figures[f"{name}, transcribed"] = share(normalise(said) == clip.text for clip, said, _ in rows)
        figures[f"{name}, answered"] = share(is_right(clip, reply) for clip, _, reply in rows)
    figures["digits answered from an order in the history"] = share(w == g for w, g in answers.counted)
    figures["typed questions about the history"] = share(w == g for w, g in answers.questions)
    orders = [(clip.order, parse(reply)) for clip, _, reply in answers.said.get("s2i", []) if clip.order]
    figures["coffee orders, all slots right"] = share(wanted == given for wanted, given in orders)
    for slot in SLOTS:
        figures[f"coffee orders, {slot}"] = share(
            given is not None and getattr(wanted, slot) == getattr(given, slot) for wanted, given in orders
        )
    figures |= noise_figures(answers)
    figures["noise alone, no words heard"] = share(not normalise(said) for _, said, _ in answers.said.get(NOISE, []))
    figures |= instructed.instructed_figures(answers.instructed)
    figures |= speakers.figures(answers.pairs, answers.emotions)
    read = answers.said.get("so762", [])
    if read:
        figures["read sentences, WER %"] = word_error_rate([c.text for c, _, _ in read], [t for _, t, _ in read])
        figures |= age_figures(read)
        figures["read sentences, declined"] = share(normalise(reply) == normalise(REFUSAL) for _, _, reply in read)
    if has_pairs(answers.voices):
        figures["same speaker or not, EER %"], figures["threshold at the EER"] = voice_error(answers.voices)
        if answers.noisy_voices:
            name = "same speaker or not, one clip of each pair in noise, EER %"
            figures[name], _ = voice_error(answers.voices, answers.noisy_voices)
    return {name: value for name, value in figures.items() if not isinstance(value, Share) or value.total}


def noise_figures(answers: Answers) -> dict[str, object]:
    """Orders in noise: the mean over all ratios, then each ratio and each kind of noise."""
    rows, name = answers.noisy_orders, NOISY
    if not rows:
        return {}
    figures: dict[str, object] = {f"{name}, mean of 6 to 24 dB": share(right for _, _, right in rows)}
    for snr_db in SNRS_DB:
        figures[f"{name}, {snr_db} dB"] = share(right for at, _, right in rows if at == snr_db)
    for kind in dict.fromkeys(kind for _, kind, _ in rows):
        figures[f"{name}, {kind} noise"] = share(right for _, of, right in rows if of == kind)
    return figures


def age_figures(read: list[tuple[Clip, str, str]]) -> dict[str, float]:
    """Word error rates by the age that a label has, as in `age=12 gender=f`."""
    figures: dict[str, float] = {}
    for name, ages in AGES.items():
        rows = [(clip.text, said) for clip, said, _ in read if (found := age(clip)) is not None and found in ages]
        if rows:
            figures[f"read sentences, {name} years, WER %"] = word_error_rate(*map(list, zip(*rows, strict=True)))
    return figures


def age(clip: Clip) -> int | None:
    """In years, where the label says."""
    found = re.search(r"\bage=(\d+)", clip.label)
    return int(found.group(1)) if found else None


def baselines(answers: Answers) -> dict[str, str]:
    """What always giving the most frequent right answer would score, from the same clips."""
    found = {name: "100 (no words)" for name in score(answers) if name.startswith("read sentences")}
    found |= {name: "50 (chance)" for name in score(answers) if name.endswith("EER %")}
    found |= instructed.instructed_baselines(answers.instructed)
    said = answers.said
    for name, wanted in {
        "digits, transcribed": [clip.text for clip, _, _ in said.get("fsdd", [])],
        "wake phrases, transcribed": [clip.text for clip, _, _ in said.get("wake", [])],
        "digits answered from an order in the history": [wanted for wanted, _ in answers.counted],
        "typed questions about the history": [wanted for wanted, _ in answers.questions],
        "coffee orders, all slots right": [str(clip.order) for clip, _, _ in said.get("s2i", [])],
        f"{NOISY}, mean of 6 to 24 dB": [str(c.order) for c, _, _ in said.get("s2i", [])],
        "read sentences, declined": [REFUSAL for _ in said.get("so762", [])],
        speakers.ONE_OR_TWO: [str(same) for same, _ in answers.pairs],
        speakers.FEELING: [label for label, _ in answers.emotions],
    }.items():
        if wanted:
            most = Counter(wanted).most_common(1)[0][1]
            found[name] = f"{100 * most / len(wanted):.1f} (the most frequent)"
    return found
