"""From a training checkpoint to the folder that is shipped."""

from __future__ import annotations

from pathlib import Path

import torch

from wavllm_core.checkpoint import save
from wavllm_core.config import RollingConfig
from wavllm_core.errors import CheckpointError


def export(trained: Path, model_config: Path, tokenizer: Path, out: Path) -> None:
    """Weights in bfloat16 beside config and tokenizer. Raises CheckpointError for a file that is not there."""
    for path in (trained, tokenizer):
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
    save(out, RollingConfig.from_json(model_config), torch.load(trained, weights_only=True)["model"], tokenizer)
