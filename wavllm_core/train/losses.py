"""What training minimises: phonemes (CTC), speakers (additive angular margin), replies (cross-entropy)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavllm_core.lora import gated
from wavllm_core.model import Encoded, WavLLM
from wavllm_core.train.batches import IGNORED, Batch


class Heads(nn.Module):
    """Classifiers that only training needs."""

    def __init__(self, model: WavLLM, phonemes: int, speakers: int) -> None:
        super().__init__()
        config = model.config
        self.phonemes = nn.Linear(config.semantic.transformer.dim, phonemes + 1)  # and the blank, 0
        self.speakers = nn.Parameter(torch.randn(speakers, config.speaker.vector_dim) * 0.1)


def ctc_loss(heads: Heads, encoded: Encoded, batch: Batch, frames_per_vector: int) -> Tensor:
    """Mean over the rows with a transcript of the loss per phoneme."""
    rows = (batch.phoneme_lengths > 0).nonzero().squeeze(1)
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
    return (losses / batch.phoneme_lengths[rows]).mean()


def speaker_loss(heads: Heads, vectors: Tensor, batch: Batch, margin: float = 0.2) -> Tensor:
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


def reply_loss(model: WavLLM, encoded: Encoded | None, batch: Batch, use_gate: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy per target token, and the share of target tokens that are right."""
    rows, labels = [], []
    for i, (before, after, target) in enumerate(zip(batch.before, batch.after, batch.targets, strict=True)):
        ids = torch.tensor(before + after)
        embeds = model.embed(ids)
        if encoded is not None and encoded.vectors is not None:
            speech = encoded.speech_embeds[i, : encoded.vectors[i]]
            embeds = torch.cat([embeds[: len(before)], speech, embeds[len(before) :]])
        label = torch.full((len(embeds),), IGNORED)
        label[-target:] = ids[-target:]
        rows.append(embeds[:-1])
        labels.append(label[1:])
    inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    wanted = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    gate = gated(model.llm, model.gate_for(batch.instructions)) if use_gate else nullcontext()
    llama = model.llm.get_base_model()
    with gate:
        states = llama.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    at = wanted != IGNORED
    logits = llama.lm_head(states[at])
    return F.cross_entropy(logits, wanted[at]), (logits.argmax(-1) == wanted[at]).float().mean()
