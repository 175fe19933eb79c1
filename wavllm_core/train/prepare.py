"""Before training: packs and synthetic speech to a corpus, a tokenizer for it, transcripts for real orders."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.config import RollingConfig
from wavllm_core.errors import InputError
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.speech import SpeechEncoder
from wavllm_core.train import synthesis
from wavllm_core.train.corpus import TABLE, Clip, Corpus, Pcm, Synthetic, read_pack, synthetic_clips, write_table
from wavllm_core.train.dialogue import Scene, Writer
from wavllm_core.train.manifest import manifest_clips
from wavllm_core.train.orders import OPENINGS
from wavllm_core.train.saved import read_saved
from wavllm_core.train.splice import Phrase, Pieces, aligned, phrases_of
from wavllm_core.train.tokenizer import train_tokenizer

log = logging.getLogger(__name__)
SENTENCE = re.compile(r"[a-z' ]{8,60}")
VOCAB_SIZE = 1024
SCENES = 3000  # made-up conversations that the tokenizer learns from


def prepare_corpus(
    packs: list[Path], sentences: Path, counts: Synthetic, out: Path, kept_out: frozenset[str] = frozenset()
) -> None:
    """Recorded clips of `packs` (tar files, or TSV manifests) and synthetic ones.

    sentences: a text file, one sentence a line
    kept_out: sources and speakers of whose recordings nothing is taken
    Raises InputError for a name in `kept_out` that no recording has.
    """
    try:
        lines = [line.strip().lower() for line in sentences.read_text().splitlines()]
    except OSError as error:
        raise InputError(f"{sentences}: cannot be read: {error.strerror}") from error
    plain = [line for line in lines if SENTENCE.fullmatch(line)]
    recorded = chain.from_iterable(manifest_clips(pack) if pack.suffix == ".tsv" else read_pack(pack) for pack in packs)
    Corpus.write(out, chain(without(kept_out, recorded), synthetic_clips(counts, plain)))


def without(names: frozenset[str], clips: Iterable[tuple[Clip, Pcm]]) -> Iterator[tuple[Clip, Pcm]]:
    """The clips but those of these sources and speakers. Raises InputError at the end for a name that none had."""
    found: set[str] = set()
    for clip, pcm in clips:
        named = names & {clip.source, clip.speaker}
        found |= named
        if not named:
            yield clip, pcm
    if unknown := sorted(names - found):
        raise InputError(f"keep-out: no recording has the source or speaker {', '.join(unknown)}")


def prepare_tokenizer(corpus: Corpus, vocab_size: int, out: Path, seed: int = 3) -> None:
    """Learn a tokenizer from the transcripts of the train split and from made-up conversations."""
    texts = [clip.text for clip in corpus.clips if clip.split == "train" and clip.text]
    writer = Writer(random.Random(seed), texts)
    for _ in range(SCENES):
        for turn in writer.history(Scene(), turns=4, speakers=3):
            texts += [f"speaker {turn.speaker}: {turn.text}", turn.reply or ""]
    texts += [f'"{TRANSCRIBE}"', f" {TRANSCRIBE}"] * 200
    train_tokenizer(texts, vocab_size, out)


def transcribe_orders(folder: Path, checkpoint: Path, model_config: Path) -> int:
    """Write likely transcripts of the train split's real orders, whose labels are slots without words.

    Of all phrasings that the grammar has for an order, the one that a stage-0 checkpoint finds likeliest
    (CTC) is taken. Returns how many were written.
    """
    model, head = listener(checkpoint, model_config)
    corpus = Corpus(folder)
    symbol_ids = corpus.symbol_ids
    table = json.loads((folder / TABLE).read_text())
    found = 0
    for index in corpus.where("train", "s2i"):
        order = corpus.clips[index].order
        if order is None:
            continue
        log_probs, _ = phoneme_scores(model, head, corpus.pcm(index))
        default = OPENINGS[5]
        forms = sorted(form for form in order.spoken_forms() if form.startswith(default))
        best = likeliest(log_probs, forms, symbol_ids)
        forms = [opening + best.removeprefix(default) for opening in OPENINGS]
        text = likeliest(log_probs, forms, symbol_ids)
        spelled = synthesis.phonemes([text])[0]
        if not set(spelled) <= symbol_ids.keys():
            continue  # a new symbol would change the meaning of those that the checkpoint has
        table["clips"][index]["text"] = text
        table["phonemes"][text] = spelled
        found += 1
        log.info("%s: %s", corpus.clips[index].file, text)
    write_table(folder, table)
    return found


def splice_orders(folder: Path, checkpoint: Path, model_config: Path, count: int, seed: int = 11) -> int:
    """Add orders of the train split's recorded phrases to a corpus; returns how many."""
    model, head = listener(checkpoint, model_config)
    corpus, pieces = Corpus(folder), Pieces()
    for index in corpus.where("train", "s2i"):
        clip, pcm = corpus.clips[index], corpus.pcm(index)
        if not clip.text:
            continue
        try:
            log_probs, voice = phoneme_scores(model, head, pcm)
            pieces.add(pcm, corpus.spans[index], places(log_probs, clip.text, corpus.symbol_ids, model.config), voice)
        except ValueError as error:
            log.warning("%s: %s", clip.file, error)
    rng, clips = random.Random(seed), []
    for _ in range(count):
        order, words, pcm = pieces.order(rng)
        clips.append((Clip("", "spliced_order", "train", words, order=order), pcm))
    return Corpus.extend(folder, clips)


def places(
    log_probs: Tensor, words: str, symbol_ids: dict[str, int], config: RollingConfig
) -> list[tuple[Phrase, int, int]]:
    """Each phrase of an order with the samples of its first and last phoneme. Raises ValueError as `aligned` does."""
    found = phrases_of(words)
    spelled = [[symbol_ids[s] for s in row if s in symbol_ids] for row in synthesis.phonemes([p.spoken for p in found])]
    frames, at, rows = aligned(log_probs, [symbol for row in spelled for symbol in row]), 0, []
    for phrase, row in zip(found, spelled, strict=True):
        first, last = frames[at], frames[at + len(row) - 1]
        rows.append((phrase, first * config.frame_samples, (last + 1) * config.frame_samples))
        at += len(row)
    return rows


Head = tuple[Tensor, Tensor]  # weight and bias of the classifier of phonemes


def listener(checkpoint: Path, model_config: Path) -> tuple[SpeechEncoder, Head]:
    """The encoders of a training checkpoint and its classifier of phonemes. Raises CheckpointError as `read_saved`."""
    saved = read_saved(checkpoint, "model", "heads")
    model = SpeechEncoder(RollingConfig.from_json(model_config)).eval().requires_grad_(False)
    model.load_state_dict({name: saved["model"][name] for name in model.state_dict()})
    return model, (saved["heads"]["phonemes.weight"], saved["heads"]["phonemes.bias"])


def phoneme_scores(model: SpeechEncoder, head: Head, pcm: Pcm) -> tuple[Tensor, Tensor]:
    """Log-probabilities (frames, symbols) of a clip, and its speaker vector."""
    encoded = model.encode(torch.from_numpy(pcm.astype("float32") / 32768)[None])
    scores = F.linear(encoded.semantic_frames, *head).log_softmax(-1)[0]
    return scores, model.speaker_head.vector(encoded.pool)[0]


def likeliest(log_probs: Tensor, texts: list[str], symbol_ids: dict[str, int]) -> str:
    """The text whose phonemes fit (frames, symbols) best per phoneme."""
    spelled = [[symbol_ids[s] for s in row if s in symbol_ids] for row in synthesis.phonemes(texts)]
    lengths = torch.tensor([len(row) for row in spelled])
    targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in spelled], batch_first=True)
    losses = F.ctc_loss(
        log_probs[:, None].expand(-1, len(texts), -1),
        targets,
        torch.full((len(texts),), len(log_probs)),
        lengths,
        reduction="none",
    )
    return texts[int((losses / lengths).argmin())]
