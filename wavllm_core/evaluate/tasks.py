"""The dev split of a pack, put to a checkpoint: every answer comes from audio through the model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Heard, Sampling
from wavllm_core.engine.decoder import Decoder
from wavllm_core.evaluate.metrics import Share, equal_error_rate, normalise, word_error_rate
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.batches import event_of
from wavllm_core.train.corpus import Clip, Pcm, read_pack
from wavllm_core.train.dialogue import Event, Scene, Writer
from wavllm_core.train.orders import SLOTS, parse, random_order, random_spoken_form

LEAD_SECONDS, TAIL_SECONDS = 0.3, 0.5  # silence around a clip, as the server's turn detection leaves it
SEED = 20261122  # of the orders that stand in the history, and of the pairs of voices
PAIRS_PER_KIND = 20_000
QUESTIONS_ASKED = 200


class Listener:
    """A checkpoint that is asked about one clip at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.decoder = Decoder(checkpoint)

    @torch.inference_mode()
    def hear(self, pcm: Pcm) -> Heard:
        """Encode a clip with silence around it."""
        lead, tail = int(LEAD_SECONDS * SAMPLE_RATE), int(TAIL_SECONDS * SAMPLE_RATE)
        waveform = np.pad(pcm.astype(np.float32) / 32768, (lead, tail))
        encoded = self.decoder.speech.encode(torch.from_numpy(waveform)[None])
        vector = self.decoder.speech.speaker_head.vector(encoded.pool)[0].numpy()
        return Heard(encoded.speech_embeds[0], vector, len(waveform) / SAMPLE_RATE)

    def ask(self, heard: Heard, instruction: str = "", history: tuple[Exchange, ...] = ()) -> str:
        """The whole answer, chosen greedily."""
        exchanges = [*history, Exchange(heard=heard)]
        return "".join(self.decoder.reply(exchanges, instruction, Sampling(max_tokens=96))).strip()


@dataclass
class Answers:
    """What the model said, clip by clip, by source."""

    said: dict[str, list[tuple[Clip, str, str]]] = field(default_factory=dict)  # clip, transcript, reply
    counted: list[tuple[str, str]] = field(default_factory=list)  # digits after an order: wanted, given
    questions: list[tuple[str, str]] = field(default_factory=list)  # typed, about the history: wanted, given
    voices: list[tuple[str, npt.NDArray[np.float32]]] = field(default_factory=list)  # speaker, vector


def collect(
    listener: Listener, pack: Path, limit: int | None, progress: Callable[[str], None], split: str = "dev"
) -> Answers:
    """Put every clip of the split to the model; at most `limit` of each source."""
    answers, rng = Answers(), random.Random(SEED)
    for clip, pcm in read_pack(pack):
        rows = answers.said.setdefault(clip.source, [])
        if clip.split != split or clip.source == "noise" or (limit is not None and len(rows) >= limit):
            continue
        heard = listener.hear(pcm)
        if clip.source == "so762":
            answers.voices.append((clip.speaker, heard.speaker_vector))
        transcript = listener.ask(heard, TRANSCRIBE) if clip.text else ""
        rows.append((clip, transcript, listener.ask(heard)))
        if clip.source == "fsdd":
            answers.counted.append(count_after_order(listener, heard, clip, rng))
        progress(f"{clip.source} {len(rows)}")
    answers.questions = [
        ask_about_history(listener, rng) for _ in range(min(limit or QUESTIONS_ASKED, QUESTIONS_ASKED))
    ]
    return answers


def ask_about_history(listener: Listener, rng: random.Random) -> tuple[str, str]:
    """A typed question after up to four typed turns of up to two people: the right reply and the model's."""
    scene, writer = Scene(), Writer(rng, ["play some music", "what is the weather"])
    past = writer.history(scene, rng.randint(1, 4), speakers=2)
    history = [Exchange(turn.text, speaker=turn.speaker, reply=turn.reply) for turn in past]
    question, speaker = writer.question(scene), writer.speaker(2)
    given = listener.decoder.reply([*history, Exchange(question.text, speaker=speaker)], "", Sampling())
    return scene.reply(question, speaker), "".join(given)


def count_after_order(listener: Listener, heard: Heard, clip: Clip, rng: random.Random) -> tuple[str, str]:
    """A spoken digit after a typed order: the right reply, which needs the history, and the model's."""
    scene, order = Scene(), random_order(rng)
    text = random_spoken_form(order, rng)
    past = Exchange(text, reply=scene.reply(Event(text, order=order), None))
    wanted = scene.reply(Event(clip.text, digit=clip.text), None)
    return wanted, listener.ask(heard, history=(past,))


def score(answers: Answers) -> dict[str, object]:
    """Every figure of the report."""
    figures: dict[str, object] = {}
    for source, name in (("fsdd", "digits"), ("wake", "wake phrases")):
        rows = answers.said.get(source, [])
        figures[f"{name}, transcribed"] = share(normalise(said) == clip.text for clip, said, _ in rows)
        figures[f"{name}, answered"] = share(
            normalise(reply) == normalise(Scene().reply(event_of(clip), None)) for clip, _, reply in rows
        )
    figures["digits answered from an order in the history"] = share(w == g for w, g in answers.counted)
    figures["typed questions about the history"] = share(w == g for w, g in answers.questions)
    orders = [(clip.order, parse(reply)) for clip, _, reply in answers.said.get("s2i", []) if clip.order]
    figures["coffee orders, all slots right"] = share(wanted == given for wanted, given in orders)
    for slot in SLOTS:
        figures[f"coffee orders, {slot}"] = share(
            given is not None and getattr(wanted, slot) == getattr(given, slot) for wanted, given in orders
        )
    read = answers.said.get("so762", [])
    if read:
        figures["read sentences, WER %"] = word_error_rate([c.text for c, _, _ in read], [t for _, t, _ in read])
    if answers.voices:
        figures["same speaker or not, EER %"], figures["threshold at the EER"] = voice_error(answers.voices)
    return figures


def baselines(answers: Answers) -> dict[str, str]:
    """What always giving the most frequent right answer would score, from the same clips."""
    found = {"read sentences, WER %": "100 (no words)", "same speaker or not, EER %": "50 (chance)"}
    said = answers.said
    for name, wanted in {
        "digits, transcribed": [clip.text for clip, _, _ in said.get("fsdd", [])],
        "wake phrases, transcribed": [clip.text for clip, _, _ in said.get("wake", [])],
        "digits answered from an order in the history": [wanted for wanted, _ in answers.counted],
        "typed questions about the history": [wanted for wanted, _ in answers.questions],
        "coffee orders, all slots right": [str(clip.order) for clip, _, _ in said.get("s2i", [])],
    }.items():
        if wanted:
            most = Counter(wanted).most_common(1)[0][1]
            found[name] = f"{100 * most / len(wanted):.1f} (the most frequent)"
    return found


def share(outcomes: Iterable[bool]) -> Share:
    """Count what is right."""
    results = list(outcomes)
    return Share(sum(results), len(results))


def voice_error(voices: list[tuple[str, npt.NDArray[np.float32]]]) -> tuple[float, float]:
    """EER over random pairs of clips, as many of one speaker as of two."""
    rng = random.Random(SEED)
    by_speaker: dict[str, list[npt.NDArray[np.float32]]] = {}
    for speaker, vector in voices:
        by_speaker.setdefault(speaker, []).append(vector)
    names = [name for name, vectors in by_speaker.items() if len(vectors) > 1]
    scores, same = [], []
    for _ in range(PAIRS_PER_KIND):
        one, other = rng.sample(by_speaker[rng.choice(names)], 2)
        a, b = (rng.choice(by_speaker[name]) for name in rng.sample(names, 2))
        scores += [float(one @ other), float(a @ b)]
        same += [True, False]
    return equal_error_rate(np.array(scores), np.array(same))
