"""What a run of `loop.py` left on disk, for those who begin from it."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from wavllm_core.errors import CheckpointError


def read_saved(path: Path, *parts: str) -> dict[str, Any]:
    """A checkpoint with these parts. Raises CheckpointError for a file that is missing, damaged or something else."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        saved = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        why = (str(error).splitlines() or ["it is empty"])[0]
        raise CheckpointError(f"{path}: damaged, or no checkpoint of a training: {why}") from error
    for part in parts:
        if not isinstance(saved, dict) or not isinstance(saved.get(part), dict):
            raise CheckpointError(f"{path}: no checkpoint of a training from scratch: {part} is missing")
    return dict(saved)
