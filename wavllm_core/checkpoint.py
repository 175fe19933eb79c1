"""A trained model on disk: `config.json`, `tokenizer.json`, `model.safetensors` in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from wavllm_core.config import WavLLMConfig
from wavllm_core.errors import CheckpointError
from wavllm_core.model import WavLLM

NANO = Path(__file__).parent / "nano"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model that is ready to use, and the tokenizer that it was trained with."""

    model: WavLLM
    tokenizer: PreTrainedTokenizerFast


def save(folder: Path, model: WavLLM, tokenizer_file: Path) -> None:
    """Write a checkpoint with weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(model.config.to_json())
    (folder / TOKENIZER).write_bytes(tokenizer_file.read_bytes())
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in stored(model).items()}
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})


def load(folder: Path) -> Checkpoint:
    """A checkpoint in float32, for inference.

    Raises CheckpointError naming the file that is missing or damaged, or every key that does not fit.
    """
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: no such file")
    model = WavLLM(WavLLMConfig.from_json(folder / CONFIG)).eval().requires_grad_(False)
    try:
        tensors = load_file(str(folder / WEIGHTS))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged: {error}") from error
    refuse_misfits(folder / WEIGHTS, model, tensors)
    model.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER), eos_token="</s>", bos_token="<s>")
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise CheckpointError(f"{folder / TOKENIZER}: damaged: {error}") from error
    return Checkpoint(model, tokenizer)


def stored(model: WavLLM) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: every tensor once; tied weights under their first name."""
    tied = {"llm.base_model.model.lm_head.weight"} if model.config.llama.get("tie_word_embeddings") else set()
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def refuse_misfits(path: Path, model: WavLLM, tensors: dict[str, torch.Tensor]) -> None:
    """Raises CheckpointError that lists missing, unexpected, mis-shaped and non-finite tensors."""
    wanted = stored(model)
    wrong = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    wrong += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        if tensors[name].shape != wanted[name].shape:
            wrong.append(f"{name}: {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}")
        elif not tensors[name].isfinite().all():
            wrong.append(f"{name}: not finite")
    if wrong:
        raise CheckpointError(f"{path}: does not fit its configuration: {'; '.join(wrong)}")
