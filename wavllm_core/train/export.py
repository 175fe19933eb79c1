"""From training checkpoints to the folder that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavllm_core.checkpoint import save, save_adapters
from wavllm_core.config import RollingConfig
from wavllm_core.errors import CheckpointError
from wavllm_core.train.saved import read_saved


def export(trained: Sequence[Path], model_config: Path, tokenizer: Path, out: Path) -> None:
    """Weights in bfloat16 beside config and tokenizer; of several checkpoints of one model their mean.

    Raises CheckpointError for a file that is not there or damaged, and for checkpoints of different models.
    """
    if not tokenizer.is_file():
        raise CheckpointError(f"{tokenizer}: no such file")
    models = [read_saved(path, "model")["model"] for path in trained]
    for path, model in zip(trained, models, strict=True):
        if _shapes(model) != _shapes(models[0]):
            raise CheckpointError(f"{path}: of another model than {trained[0]}")
    mean = {name: torch.stack([model[name] for model in models]).mean(0) for name in models[0]}
    save(out, RollingConfig.from_json(model_config), mean, tokenizer)


def export_adapters(trained: Path, base: Path, out: Path) -> None:
    """The adapters of a training checkpoint that began from `base`, and of which nothing else was trained.

    Raises CheckpointError as `save_adapters` does, and for a file that is not there or damaged.
    """
    save_adapters(out, base, read_saved(trained, "model")["model"])


def _shapes(model: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.items()}
