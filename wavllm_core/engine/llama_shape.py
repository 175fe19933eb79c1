"""What a language model of the Llama family looks like: widths, what is biased and normalised, names of its tensors.

Llama, Mistral, Qwen 2 and Qwen 3 are one architecture with small differences, which are all here. No tensor is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "llm.base_model.model.model."
HEAD = "llm.base_model.model.lm_head.weight"
ROPE_THETA = 10_000.0
RMS_EPS = 1e-6  # what transformers assumes where a configuration is silent
FAMILY = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class LlamaShape:
    """The widths that everything here depends on."""

    dim: int
    ffn_dim: int
    layers: int
    heads: int
    kv_heads: int  # fewer than heads: grouped-query attention
    head_dim: int
    vocab: int
    rank: int
    eps: float = RMS_EPS
    theta: float = ROPE_THETA
    tied: bool = False  # the head is the embedding
    biased: str = ""  # which of q, k, v and o have a bias
    mlp_biased: bool = False
    qk_norm: bool = False  # each head's query and key are normalised, as Qwen 3 does

    @classmethod
    def of(cls, llama: Mapping[str, Any], rank: int) -> LlamaShape:
        """From arguments of transformers' configuration. Raises ValueError where heads cannot be shared out evenly."""
        heads = llama["num_attention_heads"]
        kv_heads = llama.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise ValueError(f"llama.num_key_value_heads: {heads} heads cannot share {kv_heads}")
        kind, rope = llama.get("model_type", "llama"), llama.get("rope_parameters") or {}
        return cls(
            llama["hidden_size"],
            llama["intermediate_size"],
            llama["num_hidden_layers"],
            heads,
            kv_heads,
            llama.get("head_dim") or llama["hidden_size"] // heads,
            llama["vocab_size"],
            rank,
            llama.get("rms_norm_eps", RMS_EPS),
            rope.get("rope_theta") or llama.get("rope_theta") or ROPE_THETA,
            llama.get("tie_word_embeddings", False),
            "qkv" if kind == "qwen2" else "qkvo" if llama.get("attention_bias") else "",
            bool(llama.get("mlp_bias")),
            kind == "qwen3",
        )

    @property
    def widths(self) -> dict[str, int]:
        """Output channels of each projection with LoRA; a gate has one number for each."""
        return {
            "q": self.heads * self.head_dim,
            "k": self.kv_heads * self.head_dim,
            "v": self.kv_heads * self.head_dim,
            "o": self.dim,
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint must hold for the language model."""
        shapes: dict[str, tuple[int, ...]] = {
            f"{PREFIX}embed_tokens.weight": (self.vocab, self.dim),
            f"{PREFIX}norm.weight": (self.dim,),
        }
        if not self.tied:
            shapes[HEAD] = (self.vocab, self.dim)
        for i in range(self.layers):
            layer = f"{PREFIX}layers.{i}."
            for name, width in self.widths.items():
                projection = f"{layer}self_attn.{name}_proj."
                inputs = self.widths["q"] if name == "o" else self.dim
                shapes[f"{projection}base_layer.weight"] = (width, inputs)
                if name in self.biased:
                    shapes[f"{projection}base_layer.bias"] = (width,)
                shapes[f"{projection}lora_A.default.weight"] = (self.rank, inputs)
                shapes[f"{projection}lora_B.default.weight"] = (width, self.rank)
            for name, width, inputs in (
                ("gate_proj", self.ffn_dim, self.dim),
                ("up_proj", self.ffn_dim, self.dim),
                ("down_proj", self.dim, self.ffn_dim),
            ):
                shapes[f"{layer}mlp.{name}.weight"] = (width, inputs)
                if self.mlp_biased:
                    shapes[f"{layer}mlp.{name}.bias"] = (width,)
            if self.qk_norm:
                shapes |= {f"{layer}self_attn.{name}_norm.weight": (self.head_dim,) for name in "qk"}
            shapes[f"{layer}input_layernorm.weight"] = (self.dim,)
            shapes[f"{layer}post_attention_layernorm.weight"] = (self.dim,)
        return shapes
