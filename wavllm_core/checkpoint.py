"""A trained model on disk: `config.json`, `tokenizer.json`, `model.safetensors` in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from wavllm_core.config import RollingConfig
from wavllm_core.errors import CheckpointError

NANO = Path(__file__).parent / "nano"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
TIED_HEAD = "llm.base_model.model.lm_head.weight"  # the embedding again


@dataclass(frozen=True)
class Checkpoint:
    """What the files hold."""

    config: RollingConfig
    tensors: dict[str, Tensor]  # by the names of `RollingWavLLM.state_dict`, in float32
    tokenizer: Tokenizer
    folder: Path

    def refuse_misfits(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError that lists missing, unexpected, mis-shaped and non-finite tensors."""
        wrong = [f"missing {name}" for name in sorted(wanted.keys() - self.tensors.keys())]
        wrong += [f"unexpected {name}" for name in sorted(self.tensors.keys() - wanted.keys())]
        for name in sorted(wanted.keys() & self.tensors.keys()):
            shape = tuple(self.tensors[name].shape)
            if shape != wanted[name]:
                wrong.append(f"{name}: {shape}, not {wanted[name]}")
            elif not self.tensors[name].isfinite().all():
                wrong.append(f"{name}: not finite")
        if wrong:
            raise CheckpointError(f"{self.folder / WEIGHTS}: does not fit its configuration: {'; '.join(wrong)}")


def save(folder: Path, config: RollingConfig, tensors: Mapping[str, Tensor], tokenizer_file: Path) -> None:
    """Write a checkpoint with weights in bfloat16; `tensors` is a state dict of `RollingWavLLM`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config.to_json())
    (folder / TOKENIZER).write_bytes(tokenizer_file.read_bytes())
    tied = {TIED_HEAD} if config.llama.get("tie_word_embeddings") else set()
    kept = {name: value.to(torch.bfloat16).contiguous() for name, value in tensors.items() if name not in tied}
    save_file(kept, str(folder / WEIGHTS), metadata={"format": "pt"})


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError naming the file that is missing or damaged."""
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: no such file")
    config = RollingConfig.from_json(folder / CONFIG)
    try:
        tensors = load_file(str(folder / WEIGHTS))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged: {error}") from error
    tokenizer = load_tokenizer(folder / TOKENIZER)
    return Checkpoint(config, {name: value.float() for name, value in tensors.items()}, tokenizer, folder)


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises CheckpointError for a file that is missing or damaged."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception for both
        raise CheckpointError(f"{path}: no tokenizer: {error}") from error


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder's config.json is transformers', which names a model type."""
    try:
        return "model_type" in json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False  # `load` says what is wrong with it
