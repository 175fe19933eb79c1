"""Audio vectors into rows of token embeddings: the one audio token of a row gives way to all of its vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100  # a label that the loss leaves out


def splice(
    text: Tensor, real: Tensor, here: Tensor, speech: Sequence[Tensor], labels: Tensor | None, left: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows with the audio in its place, padded on the left or the right.

    text: (batch, tokens, dim); real: (batch, tokens), which tokens are no padding
    here: (batch, tokens), the audio token, at most one a row
    speech: (vectors, dim) of each row that has one, in order
    labels: (batch, tokens), spread likewise with IGNORED over the audio
    returns: (batch, positions, dim), the mask and the labels, (batch, positions) each
    """
    heard = iter(speech)
    rows, marks = [], []
    for row in range(len(text)):
        kept = real[row]
        parts, mark = [text[row, kept]], [] if labels is None else [labels[row, kept]]
        if here[row].any():
            at = int(here[row, kept].nonzero()[0])
            vectors = next(heard)
            parts = [parts[0][:at], vectors.to(text.dtype), parts[0][at + 1 :]]
            if mark:
                mark = [mark[0][:at], mark[0].new_full((len(vectors),), IGNORED), mark[0][at + 1 :]]
        rows.append(torch.cat(parts))
        marks += [torch.cat(mark)] if mark else []
    side = "left" if left else "right"
    ones = [torch.ones(len(row), dtype=torch.long, device=text.device) for row in rows]
    spread = pad_sequence(marks, batch_first=True, padding_value=IGNORED, padding_side=side) if marks else None
    embeds = pad_sequence(rows, batch_first=True, padding_side=side)
    return embeds, pad_sequence(ones, batch_first=True, padding_side=side), spread
