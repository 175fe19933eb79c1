"""The language model as a server runs it: Llama with gated LoRA, fused projections, many conversations a step.

Takes the tensors of a checkpoint under the names that transformers and peft give them, and equals those two
to float precision. Needs torch alone: importing transformers would cost a server most of its start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.engine.kv import KeyValueStore, Slot

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
    kv_heads: int  # fewer than heads: grouped-query attention
    head_dim: int
    vocab: int
    rank: int
    eps: float
    theta: float
    tied: bool

    @classmethod
    def of(cls, llama: Mapping[str, Any], rank: int) -> LlamaShape:
        """From arguments of `transformers.LlamaConfig`. Raises ValueError where heads cannot be shared out evenly."""
        heads = llama["num_attention_heads"]
        kv_heads = llama.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise ValueError(f"llama.num_key_value_heads: {heads} heads cannot share {kv_heads}")
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
            llama.get("rope_theta", ROPE_THETA),
            llama.get("tie_word_embeddings", False),
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
                shapes[f"{projection}lora_A.default.weight"] = (self.rank, inputs)
                shapes[f"{projection}lora_B.default.weight"] = (width, self.rank)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{layer}mlp.{name}.weight"] = (self.ffn_dim, self.dim)
            shapes[f"{layer}mlp.down_proj.weight"] = (self.dim, self.ffn_dim)
            shapes[f"{layer}input_layernorm.weight"] = (self.dim,)
            shapes[f"{layer}post_attention_layernorm.weight"] = (self.dim,)
        return shapes


@dataclass(frozen=True, eq=False)
class Row:
    """What one conversation adds in a step: a token while it answers, many while it is read."""

    slot: Slot
    keys: Sequence[int]  # what is to stand at the next positions
    inputs: Tensor  # (positions, dim)
    gate: Tensor | None  # (sum of `LlamaShape.widths`,); None: the base model without LoRA


@dataclass(frozen=True)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor  # (q + k + v, dim)
    qkv_lora_a: Tensor  # (3 rank, dim)
    qkv_lora_b: Tensor  # (q + k + v, 3 rank), block-diagonal
    out: Tensor
    out_lora_a: Tensor
    out_lora_b: Tensor
    ffn_norm: Tensor
    gate_up: Tensor  # (2 ffn_dim, dim)
    down: Tensor


@dataclass(frozen=True)
class _Span:
    """Where a row stands in the step, and its new positions in its slot."""

    row: slice
    index: int
    end: int
    mask: Tensor | None  # (new positions, end); one new position sees everything


@dataclass(frozen=True)
class _Step:
    """What all layers of one step share; positions of all rows are packed one after another."""

    cos: Tensor  # (positions, 1, head_dim)
    sin: Tensor
    slots: Tensor  # (positions,)
    places: Tensor  # (positions,) within the slot
    gates: Tensor | None  # (positions, sum of widths), or (1, ...) for all
    spans: list[_Span]


class LiveLlama:
    """Immutable, so any number of conversations may share it; what they remember is in a store."""

    def __init__(
        self,
        shape: LlamaShape,
        tensors: Mapping[str, Tensor],
        max_positions: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`tensors` are those that `shape.tensors()` names."""
        self.shape, self.device, self.dtype = shape, torch.device(device), dtype
        weights = {name: tensors[name].to(device, dtype) for name in shape.tensors()}
        self.embedding = weights[f"{PREFIX}embed_tokens.weight"]
        self.norm = weights[f"{PREFIX}norm.weight"]
        self.head = self.embedding if shape.tied else weights[HEAD]
        self.layers = [_pack(weights, f"{PREFIX}layers.{i}.") for i in range(shape.layers)]
        self.max_positions = max_positions
        rates = shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = (torch.arange(max_positions)[:, None] * rates).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)

    def new_store(self, slots: int, positions: int | None = None) -> KeyValueStore:
        """Room for so many conversations of so many positions, as many as there can be if not said."""
        shape, positions = self.shape, positions or self.max_positions
        return KeyValueStore(slots, shape.layers, shape.kv_heads, positions, shape.head_dim, self.device, self.dtype)

    @property
    def slot_bytes(self) -> int:
        """What one slot of a store takes."""
        shape = self.shape
        numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim * self.max_positions
        return numbers * self.embedding.element_size()

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """(tokens, dim)."""
        return self.embedding[torch.tensor(token_ids, device=self.device)]

    def step(self, store: KeyValueStore, rows: Sequence[Row]) -> Tensor:
        """Append to conversations, each in a slot of its own; writes into their slots.

        returns: (positions, dim) before the last norm, the rows one after another
        Raises ValueError past the end of a slot. When it raises, no slot has grown.
        """
        x = torch.cat([row.inputs for row in rows])
        step = self._lay_out(store, rows)
        for i, layer in enumerate(self.layers):
            x = x + self._attend(layer, x, store.tensor[:, i], step)
            normed = F.rms_norm(x, (self.shape.dim,), layer.ffn_norm, self.shape.eps)
            opened, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(opened) * up, layer.down)
        for row in rows:
            row.slot.append(row.keys)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """(..., dim) before the last norm -> (..., vocabulary)."""
        return F.linear(F.rms_norm(states, (self.shape.dim,), self.norm, self.shape.eps), self.head)

    def _lay_out(self, store: KeyValueStore, rows: Sequence[Row]) -> _Step:
        spans: list[_Span] = []
        places: list[int] = []
        slots: list[int] = []
        for row in rows:
            start, count = len(row.slot.keys), len(row.keys)
            end, at = start + count, len(places)
            if count != len(row.inputs):
                raise ValueError(f"{len(row.inputs)} inputs for {count} keys")
            if end > store.positions:
                raise ValueError(f"{end} positions; a slot holds {store.positions}")
            mask = None
            if count > 1:  # SDPA's own causal mask begins at position 0
                mask = torch.ones(count, end, dtype=torch.bool, device=self.device).tril(start)
            spans.append(_Span(slice(at, at + count), row.slot.index, end, mask))
            places += range(start, end)
            slots += [row.slot.index] * count
        at_places = torch.tensor(places, device=self.device)
        return _Step(
            self.cos[at_places][:, None],
            self.sin[at_places][:, None],
            torch.tensor(slots, device=self.device),
            at_places,
            _gather_gates(rows),
            spans,
        )

    def _attend(self, layer: _Layer, x: Tensor, store: Tensor, step: _Step) -> Tensor:
        """`store` is the layer's part, (slots, 2, kv heads, positions, head_dim)."""
        shape = self.shape
        normed = F.rms_norm(x, (shape.dim,), layer.attention_norm, shape.eps)
        qkv = F.linear(normed, layer.qkv)
        split = qkv.shape[-1]
        if step.gates is not None:
            qkv = qkv + F.linear(F.linear(normed, layer.qkv_lora_a), layer.qkv_lora_b) * step.gates[:, :split]
        heads = qkv.unflatten(-1, (-1, shape.head_dim))
        queries, keys, values = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        store[step.slots, 0, :, step.places] = rotate(keys, step.cos, step.sin)
        store[step.slots, 1, :, step.places] = values
        queries = rotate(queries, step.cos, step.sin).transpose(0, 1)
        attended = torch.cat([self._look_back(queries[:, span.row], store, span) for span in step.spans])
        out = F.linear(attended, layer.out)
        if step.gates is not None:
            out = out + F.linear(F.linear(attended, layer.out_lora_a), layer.out_lora_b) * step.gates[:, split:]
        return out

    def _look_back(self, queries: Tensor, store: Tensor, span: _Span) -> Tensor:
        """One row's attention, read in place: (heads, new, head_dim) -> (new, heads * head_dim)."""
        keys, values = store[span.index, :, :, : span.end]
        attended = F.scaled_dot_product_attention(
            queries[None],
            keys[None],
            values[None],
            attn_mask=span.mask,
            enable_gqa=self.shape.kv_heads < self.shape.heads,
        )
        return attended[0].transpose(0, 1).flatten(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in transformers' half-and-half layout, (positions, heads, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _gather_gates(rows: Sequence[Row]) -> Tensor | None:
    first = rows[0].gate
    if all(row.gate is first for row in rows):
        return None if first is None else first[None]
    width = next(row.gate for row in rows if row.gate is not None)
    gates = [torch.zeros_like(width) if row.gate is None else row.gate for row in rows]  # 0: LoRA adds nothing
    counts = torch.tensor([len(row.keys) for row in rows], device=width.device)
    return torch.stack(gates).repeat_interleave(counts, dim=0)


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
