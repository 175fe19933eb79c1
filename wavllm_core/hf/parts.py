"""A new WavLLM from other people's checkpoints: any Whisper, any WavLM, any causal language model on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperModel,
)

from wavllm_core.errors import CheckpointError
from wavllm_core.hf.config import WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor, WavLLMProcessor


def from_parts(
    semantic: Path, acoustic: Path, llm: Path, **options: Any
) -> tuple[WavLLMForConditionalGeneration, WavLLMProcessor]:
    """Pretrained encoders and language model with fresh adapters, LoRA and gate between them.

    semantic, acoustic, llm: folders that `save_pretrained` wrote
    options: of `WavLLMConfig`
    Raises CheckpointError naming the part that is missing, damaged or of another kind.
    """
    speech = _config("semantic", semantic, WhisperConfig)
    voice = _config("acoustic", acoustic, WavLMConfig)
    language = loaded("llm", llm, AutoModelForCausalLM)
    _require_llama_like(llm, language)
    config = WavLLMConfig(speech, voice, language.config, **options)
    model = WavLLMForConditionalGeneration(config, language)
    model.semantic.load_state_dict(loaded("semantic", semantic, WhisperModel).encoder.state_dict())
    model.acoustic.load_state_dict(loaded("acoustic", acoustic, WavLMModel).state_dict())
    model.generation_config = language.generation_config
    return model.eval(), processor_of(config, llm, _normalizes(acoustic))


def processor_of(config: WavLLMConfig, tokenizer: Path, normalize_waveform: bool = False) -> WavLLMProcessor:
    """The processor for a model, with a tokenizer from disk. Raises CheckpointError where that does not fit."""
    words = loaded("tokenizer", tokenizer, AutoTokenizer)
    highest = max(words.get_vocab().values())
    if highest >= config.text_config.vocab_size:
        most = config.text_config.vocab_size
        raise CheckpointError(f"{tokenizer}: a tokenizer with id {highest} for a language model of {most} tokens")
    if words.eos_token_id is None:
        raise CheckpointError(f"{tokenizer}: a tokenizer without an end-of-sequence token")
    features = WavLLMFeatureExtractor(
        feature_size=config.semantic_config.num_mel_bins,
        windows=config.windows,
        normalize_waveform=normalize_waveform,
    )
    longest = config.text_config.max_position_embeddings // 2
    return WavLLMProcessor(features, words, config.profile, None, config.audio_token_id, longest)


def _config(part: str, folder: Path, kind: Any) -> Any:
    config = loaded(part, folder, AutoConfig)
    if not isinstance(config, kind):
        raise CheckpointError(f"{part}: {folder}: a {config.model_type}, not a {kind.model_type}")
    return config


def loaded(part: str, folder: Path, kind: Any) -> Any:
    """`kind` from a folder. Raises CheckpointError naming the part that is missing or damaged."""
    if not folder.is_dir():  # else transformers would look for a repository of that name
        raise CheckpointError(f"{part}: {folder}: no such folder")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{part}: {folder}: cannot be loaded: {error}") from error


def _require_llama_like(folder: Path, llm: PreTrainedModel) -> None:
    names = {name.rpartition(".")[2] for name, _ in llm.named_modules()}
    missing = sorted({"q_proj", "k_proj", "v_proj", "o_proj"} - names)
    if missing or not isinstance(getattr(getattr(llm, "model", None), "norm", None), torch.nn.Module):
        what = ", ".join(missing) or "a last norm"
        raise CheckpointError(f"llm: {folder}: a {llm.config.model_type} without {what}; Llama and Qwen have them")


def _normalizes(acoustic: Path) -> bool:
    """What the preprocessor beside a WavLM says; base models do not normalise, large ones do."""
    if not (acoustic / "preprocessor_config.json").is_file():
        return False
    return bool(loaded("acoustic", acoustic, AutoFeatureExtractor).do_normalize)
