"""A WavLLM in Hugging Face form with tiny random weights, its processor, and tiny parts on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperModel,
)

from tests.core.tiny import write_tokenizer
from wavllm_core.hf.config import WavLLMConfig
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.processor import WavLLMFeatureExtractor, WavLLMProcessor

VOCAB = 304  # 300 of the tokenizer, and what some tokenizer classes add
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
WAVLM = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
LLM = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
BETWEEN: dict[str, Any] = {
    "semantic_conv_dims": (36, 80),
    "acoustic_conv_dims": (28, 80),
    "bottleneck_dim": 20,
    "adapter_dim": 32,
    "lora_rank": 4,
    "lora_alpha": 8,
    "gate_dim": 16,
}


def tiny_config(**options: Any) -> WavLLMConfig:
    llm = {"model_type": "llama", **LLM} | options.pop("llm", {})
    return WavLLMConfig(WHISPER, WAVLM, llm, **(BETWEEN | options))


def tiny_wavllm(**options: Any) -> WavLLMForConditionalGeneration:
    """Weights large enough that what is heard and asked decides what is answered; the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WavLLMForConditionalGeneration(tiny_config(**options)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or name.startswith(("projection", "gate.fc_2")):
                    parameter.normal_(std=0.3)
                elif name.startswith("llm.") and parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    return model


def tiny_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    folder.mkdir(exist_ok=True, parents=True)
    file = write_tokenizer(folder / "words.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token="<s>", eos_token="</s>")


def tiny_processor(folder: Path, **options: Any) -> WavLLMProcessor:
    features = WavLLMFeatureExtractor(windows=options.pop("windows", "padded"))
    return WavLLMProcessor(features, tiny_tokenizer(folder), audio_token_id=VOCAB, **options)


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32) * 0.1


def write_parts(folder: Path, llm: str = "llama", **options: Any) -> tuple[Path, Path, Path]:
    """Whisper, WavLM-large (by its norms) and a language model, as their own `save_pretrained` writes them."""
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 100}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**WHISPER, **decoder, **tokens)).save_pretrained(folder / "whisper")
    WavLMModel(WavLMConfig(**WAVLM, **LARGE)).save_pretrained(folder / "wavlm")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "wavlm")
    config = AutoConfig.for_model(llm, **(LLM | options))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "llm")
    tiny_tokenizer(folder / "made").save_pretrained(folder / "llm")
    return folder / "whisper", folder / "wavlm", folder / "llm"
