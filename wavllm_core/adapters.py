"""Adapters alone: LoRA and gate for a checkpoint that is somewhere else, which keeps its ears and its language model.

A folder of them holds `adapters.json` and `model.safetensors`, and is named wherever a checkpoint can be.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wavllm_core.errors import CheckpointError

ADAPTERS, WEIGHTS = "adapters.json", "model.safetensors"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Adapters:
    """What they belong to."""

    base: str  # the folder of the checkpoint, from that of the adapters on
    base_sha256: str  # of its weights


def is_adapter(tensor: str) -> bool:
    """Whether a tensor of this name is a part of LoRA, or of the gate."""
    return ".lora_" in tensor or tensor.startswith("gate.")


def base_of(folder: Path) -> Path:
    """The folder whose ears a checkpoint has: of adapters that of their base, else its own.

    Raises CheckpointError for adapters whose base is not there, or has other weights than those they were made for.
    """
    path = folder / ADAPTERS
    if not path.is_file():
        return folder
    try:
        adapters = TypeAdapter(Adapters).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: does not say what the adapters belong to: {error}") from error
    base = folder / adapters.base
    if (base / ADAPTERS).exists():
        raise CheckpointError(f"{path}: base: {base} holds adapters itself")
    if not (base / WEIGHTS).is_file():
        raise CheckpointError(f"{path}: base: {base / WEIGHTS}: no such file")
    if sha256(base) != adapters.base_sha256:
        raise CheckpointError(f"{path}: base_sha256: {base / WEIGHTS} has other weights")
    return base


def describe(folder: Path, base: Path) -> None:
    """Say what adapters belong to, in their folder."""
    adapters = Adapters(os.path.relpath(base, folder), sha256(base))
    (folder / ADAPTERS).write_text(json.dumps(asdict(adapters), indent=2) + "\n", encoding="utf-8")


def sha256(folder: Path) -> str:
    """Of the weights of a checkpoint."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
