"""A trained model on disk: `config.json`, `tokenizer.json`, `model.safetensors` in one folder, or adapters alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from wavllm_core.adapters import WEIGHTS, base_of, describe, is_adapter
from wavllm_core.config import RollingConfig
from wavllm_core.errors import CheckpointError

NANO = Path(__file__).parent / "nano"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
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


def save_adapters(folder: Path, base: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write what a training has made of the adapters of `base`; `tensors` is as for `save`.

    Raises CheckpointError where other parts have become different ones, beside the head of the speaker vector, which
    no adapter has to do with.
    """
    before = load(base)
    for name, value in before.tensors.items():
        if is_adapter(name) or name.startswith("speaker_head."):
            continue
        if name not in tensors or not torch.equal(tensors[name].to(torch.bfloat16).float(), value):
            raise CheckpointError(f"{name}: is not as in {base}; more than adapters was trained")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.to(torch.bfloat16).contiguous() for name, value in tensors.items() if is_adapter(name)}
    save_file(kept, str(folder / WEIGHTS), metadata={"format": "pt"})
    describe(folder, base)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint, or adapters with what they belong to.

    Raises CheckpointError naming the file that is missing or damaged.
    """
    if (base := base_of(folder)) != folder:
        whole, own = load(base), _read(folder / WEIGHTS)
        if others := sorted(name for name in own if not is_adapter(name) or name not in whole.tensors):
            raise CheckpointError(f"{folder / WEIGHTS}: {others[0]} is no adapter of {base}")
        return replace(whole, tensors={**whole.tensors, **own}, folder=folder)
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: no such file")
    config = RollingConfig.from_json(folder / CONFIG)
    return Checkpoint(config, _read(folder / WEIGHTS), load_tokenizer(folder / TOKENIZER), folder)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return {name: value.float() for name, value in load_file(str(path)).items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


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
