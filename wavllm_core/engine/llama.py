"""The language model as a server runs it: Llama with gated LoRA, fused projections, preallocated keys and values.

Takes the tensors of a checkpoint under the names that transformers and peft give them, and equals those two
to float precision. Needs torch alone: importing transformers would cost a server most of its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.config import RollingConfig

PREFIX = "llm.base_model.model.model."
HEAD = "llm.base_model.model.lm_head.weight"
ROPE_THETA = 10_000.0
RMS_EPS = 1e-6  # what transformers assumes where a configuration is silent


@dataclass(frozen=True)
class LlamaShape:
    """The widths that everything here depends on."""

    dim: int
    ffn_dim: int
    layers: int
    heads: int
    vocab: int
    rank: int
    eps: float
    theta: float
    tied: bool

    @classmethod
    def of(cls, config: RollingConfig) -> LlamaShape:
        """Raises ValueError for grouped-query attention, which is not built yet."""
        llama = config.llama
        heads = llama["num_attention_heads"]
        if llama.get("num_key_value_heads", heads) != heads:
            raise ValueError("llama.num_key_value_heads: grouped-query attention is not supported here")
        return cls(
            llama["hidden_size"],
            llama["intermediate_size"],
            llama["num_hidden_layers"],
            heads,
            llama["vocab_size"],
            config.lora.rank,
            llama.get("rms_norm_eps", RMS_EPS),
            llama.get("rope_theta", ROPE_THETA),
            llama.get("tie_word_embeddings", False),
        )

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
            for name in "qkvo":
                projection = f"{layer}self_attn.{name}_proj."
                shapes[f"{projection}base_layer.weight"] = (self.dim, self.dim)
                shapes[f"{projection}lora_A.default.weight"] = (self.rank, self.dim)
                shapes[f"{projection}lora_B.default.weight"] = (self.dim, self.rank)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{layer}mlp.{name}.weight"] = (self.ffn_dim, self.dim)
            shapes[f"{layer}mlp.down_proj.weight"] = (self.dim, self.ffn_dim)
            shapes[f"{layer}input_layernorm.weight"] = (self.dim,)
            shapes[f"{layer}post_attention_layernorm.weight"] = (self.dim,)
        return shapes


class KeyValueCache:
    """Keys and values of one conversation, for so many positions; truncation is the only way back."""

    def __init__(self, shape: LlamaShape, positions: int) -> None:
        self.store = torch.empty(shape.layers, 2, shape.heads, positions, shape.dim // shape.heads)
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget all but the first positions. Raises ValueError for more than there are."""
        if not 0 <= length <= self.length:
            raise ValueError(f"{length} positions; the cache holds {self.length}")
        self.length = length


@dataclass(frozen=True)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor  # (3 dim, dim)
    qkv_lora_a: Tensor  # (3 rank, dim)
    qkv_lora_b: Tensor  # (3 dim, 3 rank), block-diagonal
    out: Tensor
    out_lora_a: Tensor
    out_lora_b: Tensor
    ffn_norm: Tensor
    gate_up: Tensor  # (2 ffn_dim, dim)
    down: Tensor


class LiveLlama:
    """Runs one row of positions at a time. Immutable, so any number of conversations may share it."""

    def __init__(self, shape: LlamaShape, tensors: Mapping[str, Tensor], max_positions: int) -> None:
        """`tensors` are those that `shape.tensors()` names, in float32."""
        self.shape = shape
        self.embedding = tensors[f"{PREFIX}embed_tokens.weight"]
        self.norm = tensors[f"{PREFIX}norm.weight"]
        self.head = self.embedding if shape.tied else tensors[HEAD]
        self.layers = [_pack(tensors, f"{PREFIX}layers.{i}.") for i in range(shape.layers)]
        head_dim = shape.dim // shape.heads
        rates = shape.theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = (torch.arange(max_positions)[:, None] * rates).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def embed(self, token_ids: list[int]) -> Tensor:
        """(tokens, dim)."""
        return self.embedding[torch.tensor(token_ids)]

    def states(self, x: Tensor, cache: KeyValueCache, gate: Tensor | None) -> Tensor:
        """Append positions to a conversation; consumes the cache's next places.

        x: (positions, dim); gate: (dim,), or None for the base model without LoRA
        returns: (positions, dim), before the last norm
        """
        start, end = cache.length, cache.length + len(x)
        cos, sin = self.cos[start:end], self.sin[start:end]
        # One new position sees all; more see what is before them. SDPA's own causal mask begins at position 0.
        mask = None
        if len(x) > 1:
            mask = torch.ones(len(x), end, dtype=torch.bool).tril(start)
        for layer, store in zip(self.layers, cache.store, strict=True):
            x = x + self._attend(layer, x, store, (start, end), (cos, sin), mask, gate)
            normed = F.rms_norm(x, (self.shape.dim,), layer.ffn_norm, self.shape.eps)
            opened, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(opened) * up, layer.down)
        cache.length = end
        return x

    def logits(self, state: Tensor) -> Tensor:
        """(dim,) before the last norm -> (vocabulary,)."""
        return F.linear(F.rms_norm(state, (self.shape.dim,), self.norm, self.shape.eps), self.head)

    def _attend(
        self,
        layer: _Layer,
        x: Tensor,
        store: Tensor,
        span: tuple[int, int],
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        gate: Tensor | None,
    ) -> Tensor:
        normed = F.rms_norm(x, (self.shape.dim,), layer.attention_norm, self.shape.eps)
        qkv = F.linear(normed, layer.qkv)
        if gate is not None:
            qkv = qkv + F.linear(F.linear(normed, layer.qkv_lora_a), layer.qkv_lora_b) * gate.repeat(3)
        start, end = span
        queries, keys, values = qkv.unflatten(-1, (3, self.shape.heads, -1)).permute(1, 2, 0, 3)
        store[0, :, start:end] = rotate(keys, *rotation)
        store[1, :, start:end] = values
        attended = F.scaled_dot_product_attention(
            rotate(queries, *rotation)[None], store[0, :, :end][None], store[1, :, :end][None], attn_mask=mask
        )
        attended = attended[0].transpose(0, 1).flatten(1)
        out = F.linear(attended, layer.out)
        if gate is not None:
            out = out + F.linear(F.linear(attended, layer.out_lora_a), layer.out_lora_b) * gate
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in transformers' half-and-half layout, (heads, positions, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _pack(tensors: Mapping[str, Tensor], layer: str) -> _Layer:
    def projection(name: str, part: str) -> Tensor:
        return tensors[f"{layer}self_attn.{name}_proj.{part}.weight"]

    return _Layer(
        tensors[f"{layer}input_layernorm.weight"],
        torch.cat([projection(name, "base_layer") for name in "qkv"]),
        torch.cat([projection(name, "lora_A.default") for name in "qkv"]),
        torch.block_diag(*(projection(name, "lora_B.default") for name in "qkv")),
        projection("o", "base_layer"),
        projection("o", "lora_A.default"),
        projection("o", "lora_B.default"),
        tensors[f"{layer}post_attention_layernorm.weight"],
        torch.cat([tensors[f"{layer}mlp.{name}.weight"] for name in ("gate_proj", "up_proj")]),
        tensors[f"{layer}mlp.down_proj.weight"],
    )
