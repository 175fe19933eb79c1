"""What training minimises: phonemes (CTC), speakers (additive angular margin), replies (cross-entropy)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.lora import gated
from wavllm_core.model import RollingWavLLM
from wavllm_core.speech import Encoded
from wavllm_core.train.batches import IGNORED, Batch

WORD_LOGIT = 15.0  # of a vector that is a token's embedding, for that token


class Heads(nn.Module):
    """Classifiers that only training needs."""

    def __init__(self, model: RollingWavLLM, phonemes: int, speakers: int) -> None:
        super().__init__()
        config = model.config
        self.phonemes = nn.Linear(config.semantic.transformer.dim, phonemes + 1)  # and the blank, 0
        self.word_scale = nn.Parameter(torch.zeros(()))  # its logarithm, on top of WORD_LOGIT
        self.speakers = nn.Parameter(torch.randn(speakers, config.speaker.vector_dim) * 0.1)


def ctc_loss(heads: Heads, encoded: Encoded, batch: Batch, frames_per_vector: int) -> Tensor:
    """Mean over the rows of which it is known what was said of the loss per phoneme; per row where that is nothing."""
    rows = (batch.phoneme_lengths >= 0).nonzero().squeeze(1)
    if not len(rows) or encoded.vectors is None:
        return encoded.speech_embeds.new_zeros(())
    log_probs = heads.phonemes(encoded.semantic_frames[rows]).log_softmax(-1).transpose(0, 1)
    losses = F.ctc_loss(
        log_probs,
        batch.phonemes[rows],
        encoded.vectors[rows] * frames_per_vector,
        batch.phoneme_lengths[rows],
        reduction="none",
        zero_infinity=True,
    )
    return (losses / batch.phoneme_lengths[rows].clamp(min=1)).mean()


def word_loss(heads: Heads, model: RollingWavLLM, encoded: Encoded, batch: Batch, blank_id: int) -> Tensor:
    """CTC of the transcript's tokens over the audio vectors, scored against the language model's embeddings.

    It draws the vectors towards the embeddings of the words that were said, where the language model, which
    has learned its trade on text, understands them; without it, it goes on for long without listening.
    """
    rows = (batch.word_lengths >= 0).nonzero().squeeze(1)
    if not len(rows) or encoded.vectors is None:
        return encoded.speech_embeds.new_zeros(())
    embeddings = model.llm.get_input_embeddings().weight
    scale = WORD_LOGIT / embeddings.detach().square().sum(-1).mean() * heads.word_scale.exp()
    logits = scale * encoded.speech_embeds[rows] @ embeddings.T
    losses = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        batch.words[rows],
        encoded.vectors[rows],
        batch.word_lengths[rows],
        blank=blank_id,
        reduction="none",
        zero_infinity=True,
    )
    return (losses / batch.word_lengths[rows].clamp(min=1)).mean()


def speaker_loss(heads: Heads, vectors: Tensor, batch: Batch, margin: float) -> Tensor:
    """Additive angular margin softmax at scale 30 over the rows with a known speaker.

    vectors: (batch, vector_dim), each of length 1
    """
    rows = (batch.speakers >= 0).nonzero().squeeze(1)
    if not len(rows):
        return vectors.new_zeros(())
    cosine = vectors[rows] @ F.normalize(heads.speakers, dim=-1).T
    target = batch.speakers[rows]
    own = cosine.gather(1, target[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    harder = torch.cos(own.acos() + margin)
    return F.cross_entropy(30 * cosine.scatter(1, target[:, None], harder), target)


@dataclass(frozen=True)
class ReplyLoss:
    """Cross-entropy per target token, and the share of target tokens that are right."""

    loss: Tensor
    right: Tensor
    decision: Tensor | None  # the loss of those at which the answers to a question part; None: there are none
    decided: Tensor | None  # the share of those that are right


def reply_loss(model: RollingWavLLM, encoded: Encoded | None, batch: Batch, use_gate: bool) -> ReplyLoss:
    """Of what the language model says to what it reads and hears."""
    inputs, wanted = sequences(model, encoded, batch)
    gate = gated(model.llm, gates(model, batch.instructions)) if use_gate else nullcontext()
    llama = model.llm.get_base_model()
    with gate:
        states = llama.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    at = wanted != IGNORED
    loss, right = scored(llama.lm_head(states[at]), wanted[at])
    rows, places = decisions(encoded, batch)
    if not rows:
        return ReplyLoss(loss, right, None, None)
    return ReplyLoss(loss, right, *scored(llama.lm_head(states[rows, places]), wanted[rows, places]))


def scored(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of (tokens, vocabulary), and the share that is right."""
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean()


def decisions(encoded: Encoded | None, batch: Batch) -> tuple[list[int], list[int]]:
    """The rows in which another answer would part from the one that is wanted, and from which position on."""
    heard = [0] * len(batch.before) if encoded is None or encoded.vectors is None else encoded.vectors.tolist()
    deciding = [(row, place) for row, place in enumerate(batch.decides) if place is not None]
    return [row for row, _ in deciding], [len(batch.before[row]) + heard[row] + place - 1 for row, place in deciding]


def gates(model: RollingWavLLM, instructions: Sequence[Sequence[int]]) -> Tensor:
    """The gate of each row, (batch, llm dim); each instruction goes through the language model once."""
    different = {tuple(row): i for i, row in enumerate(dict.fromkeys(map(tuple, instructions)))}
    return model.gate_for(list(different))[[different[tuple(row)] for row in instructions]]


def sequences(model: RollingWavLLM, encoded: Encoded | None, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the language model reads, (batch, positions, dim), and what it should say next, (batch, positions).

    All rows are picked from one table of vectors: a lookup and a gradient for the whole batch.
    """
    ids = [before + after for before, after in zip(batch.before, batch.after, strict=True)]
    flat = torch.tensor([token for row in ids for token in row])
    said = torch.tensor([said for row in batch.wanted for said in row])
    labels_flat = flat.masked_fill(~said, IGNORED)
    table = [model.embed(flat)]
    widest = 0
    if encoded is not None:
        table.append(encoded.speech_embeds.flatten(0, 1))
        widest = encoded.speech_embeds.shape[1]
    places, labels, offset = [], [], 0
    for i, (row, before) in enumerate(zip(ids, batch.before, strict=True)):
        heard = torch.empty(0, dtype=torch.long)
        if encoded is not None and encoded.vectors is not None:
            start = len(flat) + i * widest
            heard = torch.arange(start, start + int(encoded.vectors[i]))
        cut, end = offset + len(before), offset + len(row)
        place = torch.cat([torch.arange(offset, cut), heard, torch.arange(cut, end)])
        unheard = torch.full((len(heard),), IGNORED)
        label = torch.cat([labels_flat[offset:cut], unheard, labels_flat[cut:end]])
        places.append(place[:-1])
        labels.append(label[1:])
        offset = end
    where = nn.utils.rnn.pad_sequence(places, batch_first=True)  # padding is any vector: nothing real sees it
    inputs = torch.cat(table).index_select(0, where.flatten()).unflatten(0, where.shape)
    return inputs, nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
