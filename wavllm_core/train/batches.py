"""Clips and made-up conversations to tensors: augmentation, tasks, prompts. Deterministic per seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wavllm_core.prompt import EOS, SPECIAL_TOKENS, TRANSCRIBE, PromptTemplate, Turn
from wavllm_core.train.augment import Augmentation, Waveform, augmented, faster
from wavllm_core.train.corpus import SAMPLE_RATE, Clip, Corpus, for_training
from wavllm_core.train.dialogue import DIGITS, WAKE_PHRASES, Event, Scene, Writer
from wavllm_core.train.lessons import KINDS, Kind, lesson
from wavllm_core.train.orders import random_order, random_spoken_form
from wavllm_core.train.phrasings import phrased
from wavllm_core.train.speakers import ONE_SPEAKER, PAUSE_SECONDS, Partners, joined, others, speakers_answer

TYPED_SHARE = 0.3  # of rows of conversations without audio, where a manifest has such
ORDERS_SHARE = 0.5  # of steps whose rows without audio are orders as if heard, and no conversations
PACES = (0.6, 0.6, 1.0, 4.0)  # tokens a blank, of those who are heard
TALKERS = ("so762", "librispeech", "s2i")  # whose speech is background to others
NOISE = "noise"  # the source of clips in which nobody says anything
IGNORED = -100  # a label that the loss leaves out
Asked = Kind | Literal["sv"]  # by name of wavllm_core.tasks


@dataclass(frozen=True)
class Batch:
    """Tensors for one training step; rows are padded on the right."""

    waveform: Tensor  # (batch, samples); (batch, 0) for text alone
    samples: Tensor  # (batch,)
    phonemes: Tensor  # (batch, longest), 0 is the CTC blank
    phoneme_lengths: Tensor  # (batch,), -1 where it is not known what was said
    words: Tensor  # (batch, longest) the transcript in tokens of the language model
    word_lengths: Tensor  # (batch,), -1 where it is not known what was said
    speakers: Tensor  # (batch,), -1 where unknown
    before: list[list[int]] = field(default_factory=list)  # token ids before the audio
    after: list[list[int]] = field(default_factory=list)  # and after it, the reply included
    wanted: list[list[bool]] = field(default_factory=list)  # of both, which ids the model is to say
    instructions: list[list[int]] = field(default_factory=list)  # what the gate reads
    decides: list[int | None] = field(default_factory=list)  # place in `after` where another answer would part from it

    def __len__(self) -> int:
        return max(len(self.samples), len(self.before))


class ExampleMaker:
    """Turns clips into tensors and prompts; holds what all of them share."""

    def __init__(
        self,
        corpus: Corpus,
        template: PromptTemplate,
        augmentation: Augmentation,
        seed: int,
        lessons: Mapping[Asked, float] | None = None,
        copies: float = 0.0,
        rephrased: bool = False,
    ) -> None:
        """`lessons` is the share of batches that come with an instruction, for each kind of them.

        `copies` is the share of batches without audio that hold words at random; `rephrased`, whether
        instructions are put in other words, too.
        """
        self.corpus, self.template, self.augmentation, self.lessons = corpus, template, augmentation, lessons or {}
        self.copies, self.rephrased = copies, rephrased
        self.rng = random.Random(seed)
        self.sound_rng = np.random.default_rng(seed)
        self.symbol_ids = corpus.symbol_ids
        speakers = sorted({clip.speaker for clip in corpus.clips if clip.split == "train" and clip.speaker})
        self.speaker_ids = {name: i for i, name in enumerate(speakers)}
        self.noises, self.talkers = corpus.where("train", NOISE), corpus.where("train", *TALKERS)
        self.typed = [c for i in corpus.where("train") if (c := corpus.clips[i]).answer and not corpus.seconds(i)]
        chatter = [clip.text for clip in corpus.clips if clip.split == "train" and is_chatter(clip)]
        self.partners = Partners(
            (i, (clip.split, clip.source), clip.speaker) for i, clip in enumerate(corpus.clips) if clip.speaker
        )
        special = {template.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        self.plain_ids = sorted(set(template.tokenizer.get_vocab().values()) - special)
        self.writer = Writer(self.rng, chatter or ["what is the weather"])

    def reseed(self, seed: int) -> None:
        """From here on the same batches for the same seed."""
        self.rng.seed(seed)
        self.sound_rng = np.random.default_rng(seed)

    @property
    def speakers(self) -> int:
        """How many there are to tell apart: people, at each speed."""
        return len(self.speaker_ids) * len(self.augmentation.voice_speeds)

    def speaker_id(self, clip: Clip, speed: int) -> int:
        """The number of a voice at one of the speeds, -1 where unknown."""
        found = self.speaker_ids.get(clip.speaker, -1)
        return found if found < 0 else speed * len(self.speaker_ids) + found

    def waveform(self, index: int, trimmed: bool, voice_speed: float, how: Augmentation) -> Waveform:
        """A clip in [-1, 1], augmented."""
        rng = self.rng
        x: Waveform = self.corpus.pcm(index).astype(np.float32) / np.float32(32768)
        lead, tail = (int(rng.uniform(*span) * SAMPLE_RATE) for span in (how.lead_seconds, how.tail_seconds))
        if trimmed:
            x = cut(x, self.corpus.spans[index], lead, tail)
        else:
            more_lead, more_tail = (int(rng.uniform(*how.wide_seconds) * SAMPLE_RATE) for _ in range(2))
            x = np.pad(x, (lead + more_lead, tail + more_tail))
        if voice_speed != 1.0:
            x = faster(x, voice_speed)
        if how.crop_seconds is not None and len(x) > (kept := int(how.crop_seconds * SAMPLE_RATE)):
            start = rng.randrange(len(x) - kept)
            x = x[start : start + kept]
        return augmented(x, how, self.sound_rng, self.background if self.noises else None)

    def background(self, samples: int) -> Waveform:
        """A stretch of recorded noise, or of people who talk."""
        if self.talkers and self.rng.random() < self.augmentation.babble:
            heard = np.zeros(samples, np.float32)
            for _ in range(self.rng.randint(2, 5)):
                talker = self.stretch(self.rng.choice(self.talkers), samples)
                heard += talker / (talker.std() + np.float32(1e-4))
            return heard
        return self.stretch(self.rng.choice(self.noises), samples)

    def stretch(self, index: int, samples: int) -> Waveform:
        """So many samples of a clip from anywhere in it, over and over if need be."""
        pcm = for_training(self.corpus.pcm(index))
        start = self.rng.randrange(len(pcm))
        return np.take(pcm, np.arange(start, start + samples), mode="wrap").astype(np.float32) / np.float32(32768)

    def batch(self, indices: Sequence[int], with_prompts: bool) -> Batch:
        """The tensors of some clips, and for the language model a task for each."""
        task = self.task(*KINDS, "sv") if with_prompts else None
        pairable = [i for i in indices if self.partners.usable(i)] if task == "sv" else []
        if pairable:
            return self.pairs(pairable[: (len(indices) + 1) // 2])  # twice as long
        trimmed = self.rng.random() < self.augmentation.trim  # for all, so that lengths stay alike
        speeds = [self.rng.randrange(len(self.augmentation.voice_speeds)) for _ in indices]
        waves = [
            self.waveform(i, trimmed, self.augmentation.voice_speeds[k], self.augmentation)
            for i, k in zip(indices, speeds, strict=True)
        ]
        clips = [self.corpus.clips[i] for i in indices]
        spelled = [
            torch.tensor([self.symbol_ids[s] for s in self.corpus.phonemes.get(clip.text, [])], dtype=torch.long)
            for clip in clips
        ]
        words = [torch.tensor(self.words(clip.text), dtype=torch.long) for clip in clips]
        batch = Batch(
            *padded(waves),
            torch.nn.utils.rnn.pad_sequence(spelled, batch_first=True),
            torch.tensor([len(row) if known(clip) else -1 for clip, row in zip(clips, spelled, strict=True)]),
            torch.nn.utils.rnn.pad_sequence(words, batch_first=True),
            torch.tensor([len(row) if known(clip) else -1 for clip, row in zip(clips, words, strict=True)]),
            torch.tensor([self.speaker_id(clip, k) for clip, k in zip(clips, speeds, strict=True)]),
        )
        if with_prompts:
            past_turns = self.rng.choice((0, 1, 1, 2))  # for all, so that lengths stay alike
            for clip in clips:
                self.add_task(batch, clip, past_turns, task)
        return batch

    def pairs(self, indices: Sequence[int]) -> Batch:
        """Each clip before another one, of the same person or not: is it one speaker?"""
        how = replace(self.augmentation, speed=(1.0, 1.0), formants=(1.0, 1.0))  # which make another voice
        same = [self.rng.random() < 0.5 for _ in indices]
        others = [self.partners.draw(i, one, self.rng) for i, one in zip(indices, same, strict=True)]
        waves = [
            joined(
                self.waveform(first, trimmed=True, voice_speed=1.0, how=how),
                self.waveform(second, trimmed=True, voice_speed=1.0, how=how),
                int(self.rng.uniform(*PAUSE_SECONDS) * SAMPLE_RATE),
            )
            for first, second in zip(indices, others, strict=True)
        ]
        none = torch.zeros(len(waves), 0, dtype=torch.long)
        unknown = torch.full((len(waves),), -1)
        batch = Batch(*padded(waves), none, unknown, none, unknown, unknown)
        for one in same:
            self.add_prompt(batch, [], Turn(spoken=True), ONE_SPEAKER, speakers_answer(one))
        return batch

    def task(self, *kinds: Asked) -> Asked | None:
        """Which of these lessons it is, if any."""
        shares = {kind: self.lessons[kind] for kind in kinds if kind in self.lessons}
        return self.rng.choices([None, *shares], [1 - sum(shares.values()), *shares.values()])[0]

    def add_task(self, batch: Batch, clip: Clip, past_turns: int, task: Asked | None) -> None:
        """A transcription, or the assistant's answer after so many earlier turns; to noise it says nothing."""
        if clip.answer:
            self.add_prompt(batch, [], Turn(spoken=True), clip.prompt, clip.answer)
            return
        if clip.source == NOISE:
            self.add_prompt(batch, [], Turn(spoken=True), self.rng.choice((TRANSCRIBE, "")), "")
            return
        if task and task != "sv" and clip.order and clip.text:
            learned = lesson(task, clip.order, clip.text, self.rng)
            self.add_prompt(batch, [], Turn(spoken=True), learned.instruction, learned.answer)
            return
        event = event_of(clip)
        if clip.text and self.rng.random() < (0.6 if is_chatter(clip) else 0.3):
            self.add_prompt(batch, [], Turn(spoken=True), TRANSCRIBE, f" {clip.text}")
            return
        scene, speakers = Scene(), self.rng.randint(0, 3)
        asked = bool(event.digit) and past_turns > 0 and self.rng.random() < 0.8  # how many, just before
        history = self.writer.history(scene, past_turns - asked, speakers)
        if asked:
            history.append(self.writer.ordered(scene, speakers))
        speaker = self.writer.speaker(speakers)
        self.add_prompt(batch, history, Turn(spoken=True, speaker=speaker), "", scene.reply(event, speaker))

    def words(self, text: str) -> list[int]:
        """A transcript in tokens; every word begins with its space, as in the middle of a line."""
        return self.template.encode(f" {text}") if text else []

    def as_if_heard(self, tokens: Sequence[int]) -> list[int]:
        """The tokens of words in the way that audio vectors bring them: with blanks between, some twice, some wrong."""
        heard: list[int] = []
        pace = self.rng.choice(PACES)
        for token in tokens:
            blanks = max(min(6, int(self.rng.expovariate(pace))), heard[-1:] == [token])  # CTC keeps equal ones apart
            heard += [self.template.blank_id] * blanks
            if (fate := self.rng.random()) < 0.98:
                heard += [token] * (1 if fate < 0.7 else 2)
            elif fate < 0.99:
                heard.append(self.rng.randrange(self.template.tokenizer.get_vocab_size()))
        return heard + [self.template.blank_id] * self.rng.randint(0, 6)

    def add_prompt(
        self,
        batch: Batch,
        history: list[Turn],
        turn: Turn,
        instruction: str,
        reply: str | list[int],
        heard: Sequence[int] = (),
    ) -> None:
        """One row of token ids; a reply may be tokens already, and `heard` stands in for audio.

        Replies in the history are practised as well.
        """
        if self.rephrased:
            instruction = phrased(instruction, self.rng)
        prompt = self.template.build(history, turn, instruction)
        target = self.template.target(reply) if isinstance(reply, str) else [*reply, *self.template.encode(EOS)]
        batch.before.append([*prompt.before, *heard])
        batch.after.append(prompt.after + target)
        past = self.template.replies(prompt.before, [bool(old.text) for old in history])
        batch.wanted.append(past + [False] * (len(heard) + len(prompt.after)) + [True] * len(target))
        batch.instructions.append(self.template.gate_ids(instruction))
        same = [self.template.target(other) for other in others(reply)] if isinstance(reply, str) else []
        parting = (place for place, tokens in enumerate(zip(target, *same, strict=False)) if len({*tokens}) > 1)
        batch.decides.append(len(prompt.after) + next(parting) if same else None)

    def text_batch(self, rows: int) -> Batch:
        """Conversations without audio: the last turn typed, or in tokens as if it had been heard."""
        copies, orders, task = self.rng.random() < self.copies, self.rng.random() < ORDERS_SHARE, self.task(*KINDS)
        if orders and task in ("ii", "cot") and not copies:
            rows //= 2  # twice as long
        empty = torch.zeros(rows, 0)
        none = torch.zeros(rows, dtype=torch.long)
        batch = Batch(empty, none, empty.long(), none, empty.long(), none, none - 1)
        if copies or orders:  # or neither, for all, so that lengths stay alike
            tokens = self.rng.randint(2, 24)
            for _ in range(rows):
                self.add_copy(batch, tokens) if copies else self.add_order(batch, task)
            return batch
        past_turns = self.rng.choice((1, 1, 2, 3, 4, 5))  # for all, so that lengths stay alike
        for _ in range(rows):
            if self.typed and self.rng.random() < TYPED_SHARE:
                clip = self.rng.choice(self.typed)
                self.add_prompt(batch, [], Turn(), clip.prompt, clip.answer)
                continue
            scene, speakers, kind = Scene(), self.rng.choice((0, 1, 2, 2, 3)), self.rng.random()
            if kind < 0.06:
                text = self.writer.event(scene).text
                self.add_prompt(
                    batch, [], Turn(spoken=True), TRANSCRIBE, f" {text}", self.as_if_heard(self.words(text))
                )
                continue
            curious = self.rng.random() < 0.75
            history = self.writer.history(scene, past_turns, speakers, curious)
            event = self.writer.question(scene) if curious else self.writer.event(scene)
            speaker = self.writer.speaker(speakers)
            if kind < 0.45:
                turn, heard = Turn(spoken=True, speaker=speaker), self.as_if_heard(self.words(event.text))
            else:
                speaker = speaker if kind < 0.75 else None  # who types is not always known
                turn, heard = Turn(text=event.text, speaker=speaker), []
            self.add_prompt(batch, history, turn, "", scene.reply(event, speaker), heard)
        return batch

    def add_copy(self, batch: Batch, tokens: int) -> None:
        """So many tokens at random, as if heard, to be written down: nothing but listening helps."""
        said = self.rng.choices(self.plain_ids, k=tokens)
        self.add_prompt(batch, [], Turn(spoken=True), TRANSCRIBE, said, self.as_if_heard(said))

    def add_order(self, batch: Batch, task: Asked | None) -> None:
        """An order as if heard, to be repeated, written down, or asked about; often one of many words."""
        order = max((random_order(self.rng) for _ in range(self.rng.randint(1, 4))), key=lambda one: len(one.slots()))
        words = random_spoken_form(order, self.rng)
        heard = self.as_if_heard(self.words(words))
        if task and task != "sv":
            learned = lesson(task, order, words, self.rng)
            self.add_prompt(batch, [], Turn(spoken=True), learned.instruction, learned.answer, heard)
        elif self.rng.random() < 0.2:
            self.add_prompt(batch, [], Turn(spoken=True), TRANSCRIBE, f" {words}", heard)
        else:
            reply = Scene().reply(Event(words, order=order), None)
            speaker = self.writer.speaker(self.rng.randint(0, 3))
            self.add_prompt(batch, [], Turn(spoken=True, speaker=speaker), "", reply, heard)


def padded(waves: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
    """Rows of one length, (batch, samples), silence on the right, and how long each was, (batch,)."""
    samples = torch.tensor([len(wave) for wave in waves])
    rows = torch.zeros(len(waves), int(samples.max()))
    for row, wave in zip(rows, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return rows, samples


def cut(waveform: Waveform, span: tuple[int, int], lead: int, tail: int) -> Waveform:
    """The samples of `span` with so many before and after it, silence where the clip has none."""
    start, end = span[0] - lead, span[1] + tail
    inside = waveform[max(start, 0) : min(end, len(waveform))]
    return np.pad(inside, (max(-start, 0), max(end - len(waveform), 0)))


def is_chatter(clip: Clip) -> bool:
    """Whether a clip holds a sentence that is none of the assistant's business."""
    return clip.source in ("so762", "espeak_sentence") and bool(clip.text)


def known(clip: Clip) -> bool:
    """Whether it is known what is said in a clip, be it nothing."""
    return bool(clip.text) or clip.source == NOISE


def event_of(clip: Clip) -> Event:
    """What a clip means to the assistant."""
    digit = clip.text if clip.text in DIGITS else None
    wake = clip.text if clip.text in WAKE_PHRASES else None
    return Event(clip.text, order=clip.order, digit=digit, wake=wake)
