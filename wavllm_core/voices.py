"""What the speaker vectors of one checkpoint mean: which weights make them, and how alike two of one voice are.

Vectors of different weights cannot be compared, and each training moves the similarity at which two are of one
voice. So a checkpoint brings a `voices.json`, measured on recorded people by `wavllm voices calibrate`.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wavllm_core.adapters import base_of
from wavllm_core.errors import CheckpointError

SCALE = "voices.json"
VOICE_TENSORS = ("acoustic.", "speaker_head.")  # of a rolling checkpoint; of others every tensor counts
FINGERPRINT_CHARS = 16
MAX_HEADER_BYTES, BLOCK_BYTES = 2**27, 2**22


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VoiceScale:
    """How to read the similarity (cosine) of two speaker vectors; by default, of a model that nobody measured."""

    fingerprint: str = ""  # of the weights that it was measured with
    same_similarity: float = 0.6  # above it two utterances are more likely of one voice: the threshold at the EER
    known_similarity: float | None = None  # to somebody enrolled, for a name; None: the same
    slope: float = 10.0  # confidence = logistic(slope * (similarity - same_similarity)), fitted to the same pairs
    eer_percent: float | None = None  # how often that errs, either way; None: not measured
    measured_on: str = "nothing"

    @property
    def limit_to_know(self) -> float:
        """How like somebody enrolled a voice must be, to be given the name."""
        return self.same_similarity if self.known_similarity is None else self.known_similarity

    def confidence(self, similarity: float) -> float:
        """The probability of one voice, were one and two equally likely before."""
        return 1 / (1 + math.exp(-self.slope * (similarity - self.same_similarity)))


def fingerprint(folder: Path) -> str:
    """A name for the weights that make the speaker vectors; training the others alone does not change it.

    Raises CheckpointError for a folder without weights, or with damaged ones.
    """
    digest = hashlib.sha256()
    files = sorted(base_of(folder).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: holds no weights")
    for path in files:
        try:
            with path.open("rb") as file:
                _add_tensors(digest, file)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise CheckpointError(f"{path}: damaged: {error}") from error
    return digest.hexdigest()[:FINGERPRINT_CHARS]


def load_scale(folder: Path) -> VoiceScale:
    """The scale of a checkpoint; the default one where it brings none of its own weights.

    Raises CheckpointError for a file that cannot be read.
    """
    name, path = fingerprint(folder), base_of(folder) / SCALE
    if not path.is_file():
        return VoiceScale(name)
    try:
        scale = TypeAdapter(VoiceScale).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: no scale of voices: {error}") from error
    return scale if scale.fingerprint == name else VoiceScale(name)


def save_scale(folder: Path, scale: VoiceScale) -> Path:
    """Put a scale beside the weights that it was measured with."""
    path = base_of(folder) / SCALE
    path.write_text(json.dumps(asdict(scale), indent=2) + "\n", encoding="utf-8")
    return path


def _add_tensors(digest: hashlib._Hash, file: BinaryIO) -> None:
    """Name and bytes of each tensor that counts; the format: header length, JSON header, tensors."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(file.read(length))
    names = sorted(header.keys() - {"__metadata__"})
    for name in [name for name in names if name.startswith(VOICE_TENSORS)] or names:
        start, end = header[name]["data_offsets"]
        file.seek(8 + length + start)
        digest.update(name.encode())
        while start < end:
            block = file.read(min(end - start, BLOCK_BYTES))
            if not block:
                raise ValueError(f"{name} breaks off")
            digest.update(block)
            start += len(block)
