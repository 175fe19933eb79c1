"""The reference model at tiny widths: weights by the rule of tests/golden, as a checkpoint of the published form."""

from __future__ import annotations

import json
import zlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavllm_core.hf.convert import Heads

GOLDEN = Path(__file__).parent.parent / "golden" / "wavllm_reference_tiny"
HEADS = Heads(semantic=16, llm=16)
CASES = ("short_asr", "tiny_sqqa")
REFERENCE = json.loads((GOLDEN / "model.json").read_text())


def weights() -> dict[str, Tensor]:
    """Every tensor of the state dict, in the names of the release."""
    return {name: _weight(name, tuple(shape)) for name, shape in REFERENCE["keys"].items()}


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ REFERENCE["seed"]) & 0x7FFFFFFF)
    z = torch.randn(shape, generator=generator)
    last = name.rpartition(".")[2]
    if last in ("original0", "weight_g", "gru_rel_pos_const"):
        return 1 + 0.1 * z
    if name.endswith("scale_fc_2.weight"):
        return 4 * z / sqrt(shape[1])
    if last == "output_weights":
        return 0.5 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if last == "weight" and "norm" in name else 0.1 * z
    if "lora_" in last:
        return z / sqrt(shape[0])
    return 0.5 * z if "embed" in name else z / sqrt(prod(shape[1:]))


def write_checkpoint(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """A file like the released final.pt."""
    torch.save({"model": weights() if tensors is None else tensors, "cfg": {"model": {"_name": "wavllm"}}}, path)
    return path


def golden(case: str) -> dict[str, Tensor]:
    """What the published implementation gave for one utterance."""
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}
