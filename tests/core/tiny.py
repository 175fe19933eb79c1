"""A complete WavLLM with tiny random weights, and a tokenizer for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from wavllm_core.checkpoint import TIED_HEAD, Checkpoint, load_tokenizer
from wavllm_core.config import (
    AcousticConfig,
    AdapterConfig,
    LoraConfig,
    RollingConfig,
    SemanticConfig,
    SpeakerConfig,
    TransformerConfig,
)
from wavllm_core.model import RollingWavLLM
from wavllm_core.train.tokenizer import train_tokenizer

VOCAB = 300


def tiny_config() -> RollingConfig:
    """The shape of nano at a fraction of its widths; a block is 160 ms."""
    transformer = TransformerConfig(dim=16, layers=2, heads=2, ffn_dim=24)
    return RollingConfig(
        semantic=SemanticConfig(transformer, mels=20, conv_strides=(2, 2), max_frames=800),
        semantic_adapter=AdapterConfig((16, 24), (2, 1), 8, 16),
        acoustic=AcousticConfig(
            transformer,
            conv_dims=(16, 16, 16),
            conv_kernels=(400, 4, 4),
            conv_strides=(160, 2, 2),
            position_kernel=8,
            position_groups=2,
            relative_buckets=16,
            relative_max_distance=40,
        ),
        acoustic_adapter=AdapterConfig((16, 24), (2, 1), 8, 16),
        lora=LoraConfig(rank=4, alpha=4, gate_dim=8),
        llama={
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
        speaker=SpeakerConfig(vector_dim=8, log_mel=True),
        block_frames=4,
        left_blocks=3,
        max_context=256,
    )


@cache
def tiny_model() -> RollingWavLLM:
    """Random weights, LoRA and positions included; the same in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RollingWavLLM(tiny_config()).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "_proj" in name:
                torch.nn.init.normal_(parameter, std=0.3)
            if "embed_tokens" in name:  # large, so that what is decoded depends on the context
                torch.nn.init.normal_(parameter)
    return model


def tiny_checkpoint(folder: Path) -> Checkpoint:
    """The same weights as a checkpoint, in float32."""
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer.json"))
    tensors = {name: value for name, value in tiny_model().state_dict().items() if name != TIED_HEAD}
    return Checkpoint(tiny_config(), tensors, tokenizer, folder)


def write_tokenizer(path: Path) -> Path:
    """A byte-level tokenizer of VOCAB entries."""
    train_tokenizer(["what did i order", "three times a mocha", "speaker 1 said seven"] * 9, VOCAB, path)
    return path
