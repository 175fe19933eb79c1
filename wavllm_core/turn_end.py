"""Does what was heard sound finished? A line through the vectors that the language model hears, beside the weights.

It hears the fall of the voice and the sense of the last words at once. Vectors of other weights mean something else,
so the file `turn_end.json` of a checkpoint names those that it was fitted to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from wavllm_core.adapters import base_of
from wavllm_core.checkpoint import NANO
from wavllm_core.engine.api import Heard
from wavllm_core.errors import CheckpointError

FILE = "turn_end.json"
SPANS = ((-3, None), (-6, -3), (-16, None))  # of vectors, each averaged: the end, what led to it, the last second
FINGERPRINT_CHARS = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnEnd:
    """Weights of a logistic regression."""

    fingerprint: str  # of the checkpoint
    bias: float
    weights: list[float]  # (spans * dim,)
    fitted_on: str

    def score(self, heard: Heard) -> float:
        """From 0, more follows, to 1, that was all."""
        logit = self.bias + float(features(heard.speech_embeds) @ torch.tensor(self.weights))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def features(speech_embeds: Tensor) -> Tensor:
    """(spans * dim,) of (vectors, dim); where there are too few vectors, the first stands for a span."""
    embeds = speech_embeds.float().cpu()
    spans = [embeds[slice(*span)] for span in SPANS]
    return torch.cat([(span if len(span) else embeds[:1]).mean(dim=0) for span in spans])


def fingerprint(folder: Path) -> str:
    """A name for all weights of a checkpoint, without its adapters where they are apart."""
    digest = hashlib.sha256()
    for path in sorted(base_of(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:FINGERPRINT_CHARS]


def save_turn_end(folder: Path, fitted: TurnEnd) -> None:
    """Put it beside the weights that it was fitted to."""
    (folder / FILE).write_text(json.dumps(asdict(fitted)) + "\n", encoding="utf-8")


def find_turn_end(folder: Path | None) -> Callable[[Heard], float] | None:
    """The scorer of a checkpoint, or of the shipped model; None where it brings none of its own weights.

    Raises CheckpointError for a file that cannot be read.
    """
    folder = base_of(folder or NANO)
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        fitted = TypeAdapter(TurnEnd).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: holds no weights for the ends of turns: {error}") from error
    if fitted.fingerprint != fingerprint(folder):
        log.warning("%s was fitted to other weights; semantic_vad falls back to silence", path)
        return None
    return fitted.score
