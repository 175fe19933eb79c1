"""The language model as a server runs it: Llama with gated LoRA, fused projections, many conversations a step.

Takes the tensors of a checkpoint under the names that transformers and peft give them, and equals those two
to float precision. Needs torch alone: importing transformers would cost a server most of its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.engine.kv import KeyValueStore, Slot
from wavllm_core.engine.llama_shape import HEAD, PREFIX, LlamaShape

LookBack = Callable[[Tensor, Tensor], Tensor]  # (positions, heads, head_dim), a layer's store -> (positions, q width)


@dataclass(frozen=True)
class Rope:
    """Rotary positions."""

    rates: Tensor  # (head_dim / 2,), radians a position
    scale: float = 1.0  # of the rotated queries and keys; YaRN has one

    @classmethod
    def plain(cls, shape: LlamaShape) -> Rope:
        """As they were first: a geometric row."""
        return cls(shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim))


@dataclass(frozen=True, eq=False)
class Row:
    """What one conversation adds in a step: a token while it answers, many while it is read."""

    slot: Slot
    keys: Sequence[int]  # what is to stand at the next positions
    inputs: Tensor | None  # (positions, dim); None: the keys are tokens, to be embedded
    gate: Tensor | None  # (sum of `LlamaShape.widths`,); None: the base model without LoRA


@dataclass(frozen=True)
class _Linear:
    """A projection, with gated LoRA or without."""

    weight: Tensor
    bias: Tensor | None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None

    def __call__(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        out = F.linear(x, self.weight, self.bias)
        if gates is None or self.lora_a is None or self.lora_b is None:
            return out
        return out + F.linear(F.linear(x, self.lora_a), self.lora_b) * gates


@dataclass(frozen=True)
class _Layer:
    attention_norm: Tensor
    qkv: _Linear  # (q + k + v, dim)
    head_norms: tuple[Tensor, Tensor] | None  # (head_dim,) of queries and of keys
    out: _Linear
    ffn_norm: Tensor
    gate_up: _Linear  # (2 ffn_dim, dim)
    down: _Linear


@dataclass(frozen=True)
class Step:
    """What all layers of one step share; positions of all rows are packed one after another."""

    slots: Tensor  # (positions,)
    places: Tensor  # (positions,) within the slot
    gates: Tensor | None  # (positions, sum of widths), or (1, ...) for all
    look_back: LookBack


class LiveLlama:
    """Immutable, so any number of conversations may share it; what they remember is in a store."""

    def __init__(
        self,
        shape: LlamaShape,
        tensors: Mapping[str, Tensor],
        max_positions: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rope: Rope | None = None,
    ) -> None:
        """`tensors` are those that `shape.tensors()` names; rotary positions are plain where nothing is said."""
        self.shape, self.device, self.dtype = shape, torch.device(device), dtype
        weights = {name: tensors[name].to(device, dtype) for name in shape.tensors()}
        self.embedding = weights[f"{PREFIX}embed_tokens.weight"]
        self.norm = weights[f"{PREFIX}norm.weight"]
        self.head = self.embedding if shape.tied else weights[HEAD]
        self.layers = [_pack(weights, f"{PREFIX}layers.{i}.") for i in range(shape.layers)]
        self.max_positions = max_positions
        rope = rope or Rope.plain(shape)
        angles = (torch.arange(max_positions)[:, None] * rope.rates.float().cpu()).repeat(1, 2)
        self.cos, self.sin = ((rope.scale * wave).to(device, dtype) for wave in (angles.cos(), angles.sin()))

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
        parts = [self.embed(row.keys) if row.inputs is None else row.inputs for row in rows]
        x = self.run(torch.cat(parts), store, self._lay_out(store, rows, parts))
        for row in rows:
            row.slot.append(row.keys)
        return x

    def run(self, x: Tensor, store: KeyValueStore, step: Step) -> Tensor:
        """All layers, (positions, dim) to the same; writes keys and values into the store."""
        rotation = self.cos[step.places][:, None], self.sin[step.places][:, None]
        for i, layer in enumerate(self.layers):
            x = x + self._attend(layer, self._norm(x, layer.attention_norm), store.tensor[:, i], step, rotation)
            opened, up = layer.gate_up(self._norm(x, layer.ffn_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(opened) * up)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """(..., dim) before the last norm -> (..., vocabulary)."""
        return F.linear(self._norm(states, self.norm), self.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.shape.eps)

    def _lay_out(self, store: KeyValueStore, rows: Sequence[Row], parts: Sequence[Tensor]) -> Step:
        spans: list[_Span] = []
        places: list[int] = []
        slots: list[int] = []
        for row, part in zip(rows, parts, strict=True):
            start, count = len(row.slot.keys), len(row.keys)
            end, at = start + count, len(places)
            if count != len(part):
                raise ValueError(f"{len(part)} inputs for {count} keys")
            if end > store.positions:
                raise ValueError(f"{end} positions; a slot holds {store.positions}")
            mask = None
            if count > 1:  # SDPA's own causal mask begins at position 0
                mask = torch.ones(count, end, dtype=torch.bool, device=self.device).tril(start)
            spans.append(_Span(slice(at, at + count), row.slot.index, end, mask))
            places += range(start, end)
            slots += [row.slot.index] * count

        def look_back(queries: Tensor, layer: Tensor) -> Tensor:
            return torch.cat([self._own_slot(queries[span.row], layer, span) for span in spans])

        return Step(
            torch.tensor(slots, device=self.device),
            torch.tensor(places, device=self.device),
            _gather_gates(rows),
            look_back,
        )

    def _attend(
        self, layer: _Layer, normed: Tensor, store: Tensor, step: Step, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """`store` is the layer's part, (slots, 2, kv heads, positions, head_dim)."""
        shape = self.shape
        split = sum(shape.widths[name] for name in "qkv")
        of_qkv, of_out = (None, None) if step.gates is None else step.gates.split([split, shape.dim], dim=-1)
        heads = layer.qkv(normed, of_qkv).unflatten(-1, (-1, shape.head_dim))
        queries, keys, values = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        if layer.head_norms:
            queries, keys = self._norm(queries, layer.head_norms[0]), self._norm(keys, layer.head_norms[1])
        store[step.slots, 0, :, step.places] = rotate(keys, *rotation)
        store[step.slots, 1, :, step.places] = values
        return layer.out(step.look_back(rotate(queries, *rotation), store), of_out)

    def _own_slot(self, queries: Tensor, store: Tensor, span: _Span) -> Tensor:
        """One row's attention, read in place: (new, heads, head_dim) -> (new, heads * head_dim)."""
        keys, values = store[span.index, :, :, : span.end]
        attended = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=span.mask,
            enable_gqa=self.shape.kv_heads < self.shape.heads,
        )
        return attended[0].transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class _Span:
    """Where a row stands in the step, and its new positions in its slot."""

    row: slice
    index: int
    end: int
    mask: Tensor | None  # (new positions, end); one new position sees everything


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
    def joined(names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of several projections in one."""
        biases = [tensors[f"{layer}{name}.bias"] for name in names if f"{layer}{name}.bias" in tensors]
        return torch.cat([tensors[f"{layer}{name}.weight"] for name in names]), torch.cat(biases) if biases else None

    def adapted(projections: str) -> _Linear:
        names = [f"self_attn.{name}_proj" for name in projections]
        lora_b = [tensors[f"{layer}{name}.lora_B.default.weight"] for name in names]
        return _Linear(
            *joined([f"{name}.base_layer" for name in names]),
            torch.cat([tensors[f"{layer}{name}.lora_A.default.weight"] for name in names]),
            torch.block_diag(*lora_b),
        )

    norms = [tensors[name] for name in (f"{layer}self_attn.{part}_norm.weight" for part in "qk") if name in tensors]
    return _Layer(
        tensors[f"{layer}input_layernorm.weight"],
        adapted("qkv"),
        (norms[0], norms[1]) if norms else None,
        adapted("o"),
        tensors[f"{layer}post_attention_layernorm.weight"],
        _Linear(*joined(["mlp.gate_proj", "mlp.up_proj"])),
        _Linear(*joined(["mlp.down_proj"])),
    )
