"""Decode steps of a few fixed shapes, one token a row, so that a GPU can replay them as CUDA graphs.

Rows are filled up to the next bucket by repeating the first one, which then computes and writes the same again; so
padding needs no room in the store and changes nothing. All that differs between two steps is copied into buffers.
The same code runs on a CPU, without capture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavllm_core.engine.kv import KeyValueStore
from wavllm_core.engine.llama import LiveLlama, LookBack, Row, Step

log = logging.getLogger(__name__)
ROWS = (1, 2, 4, 8, 16, 32, 64)
SHORTEST = 256  # positions; SDPA looks at so many at least
PAGE = 256  # positions; flash attention takes slots of a multiple of it
CLOSE = 0.02  # to SDPA, of results of at most 1 in half precision; wrong ones are off by far more
WARM_UPS = 3  # steps before a capture, in which libraries allocate what they keep


class Decoding:
    """Replays decode steps over one store."""

    @torch.inference_mode()
    def __init__(self, llama: LiveLlama, store: KeyValueStore, rows: Sequence[int] = ROWS) -> None:
        """Captures every bucket where the model is on a GPU."""
        self.llama, self.store, self.rows = llama, store, rows
        device, width = llama.device, sum(llama.shape.widths.values())
        self._told = {count: torch.zeros(3, count, dtype=torch.int64, device=device) for count in rows}
        self._gates = {count: torch.zeros(count, width, dtype=llama.dtype, device=device) for count in rows}
        self._no_gate = torch.zeros(width, dtype=llama.dtype, device=device)
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._varlen = find_varlen(llama, store) if self._pool else None
        self.lengths = [store.positions]
        while not self.paged and self.lengths[0] > SHORTEST:
            self.lengths.insert(0, -(-self.lengths[0] // 2))
        shapes = sorted(product(rows, self.lengths), reverse=True)  # the others fit into what the largest has allocated
        self._steps = {shape: self._prepare(*shape) for shape in shapes}

    @property
    def paged(self) -> bool:
        """Whether slots are read where they are, not gathered first."""
        return self._varlen is not None

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Tensor:
        """Append one token to each of these conversations; returns (rows, dim) before the last norm.

        Raises ValueError past the end of a slot, and for more rows than the largest bucket has.
        """
        places = [len(row.slot.keys) for row in rows]
        if max(places) >= self.store.positions:
            raise ValueError(f"{max(places) + 1} positions; a slot holds {self.store.positions}")
        if len(rows) > max(self.rows):
            raise ValueError(f"{len(rows)} rows; at most {max(self.rows)} are decoded in a step")
        count = next(count for count in self.rows if count >= len(rows))
        length = next(length for length in self.lengths if length > max(places))
        padded = [*range(len(rows)), *[0] * (count - len(rows))]
        told = [[row.keys[0] for row in rows], [row.slot.index for row in rows], places]
        self._told[count].copy_(torch.tensor(told)[:, padded])
        gates = [self._no_gate if row.gate is None else row.gate for row in rows]
        torch.stack([gates[i] for i in padded], out=self._gates[count])
        states = self._steps[count, length]()[: len(rows)].clone()
        for row in rows:
            row.slot.append(row.keys)
        return states

    def _prepare(self, count: int, length: int) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            ids, slots, places = self._told[count]
            step = Step(slots, places, self._gates[count], self._look_back(slots, places, length))
            return self.llama.run(self.llama.embedding[ids], self.store, step)

        return capture(compute, self.llama.device, self._pool) if self._pool else compute

    def _look_back(self, slots: Tensor, places: Tensor, length: int) -> LookBack:
        """Attention of one query a row; what a slot holds behind its last position is not looked at."""
        return self._varlen(slots, places) if self._varlen else gather(self.llama, slots, places, length)


def gather(llama: LiveLlama, slots: Tensor, places: Tensor, length: int) -> LookBack:
    """Attention by SDPA over copies of the slots, of which it looks at `length` positions."""
    seen = torch.arange(length, device=slots.device) <= places[:, None]
    grouped = llama.shape.kv_heads < llama.shape.heads

    def gathered(queries: Tensor, layer: Tensor) -> Tensor:
        behind = ~seen[:, None, None, :, None]
        keys, values = layer[:, :, :, :length][slots].masked_fill(behind, 0.0).unbind(1)  # 0 times no number is none
        mask = seen[:, None, None]
        attended = F.scaled_dot_product_attention(queries[:, :, None], keys, values, mask, enable_gqa=grouped)
        return attended.flatten(1)

    return gathered


def find_varlen(llama: LiveLlama, store: KeyValueStore) -> Callable[[Tensor, Tensor], LookBack] | None:
    """Flash attention that reads slots where they are, each a page of a paged cache; None where it cannot be had.

    It is tried before it is trusted: on slots whose unused positions hold no numbers it must come to what SDPA does.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn

        def look_back(slots: Tensor, places: Tensor) -> LookBack:
            starts = torch.arange(len(slots) + 1, dtype=torch.int32, device=slots.device)
            ends = starts * store.positions  # the pages and lengths tell as much; it is asked for all the same
            options: dict[str, Any] = {
                "seqused_k": (places + 1).int(),
                "block_table": slots[:, None].int(),
                "num_splits": 1,  # with more, torch 2.13 leaves out all rows but the first (its issue 194167)
            }
            if llama.shape.kv_heads < llama.shape.heads:
                options["enable_gqa"] = True

            def paged(queries: Tensor, layer: Tensor) -> Tensor:
                keys, values = layer.transpose(2, 3).unbind(1)  # (slots, positions, kv heads, head_dim), in place
                return varlen_attn(queries, keys, values, starts, ends, 1, store.positions, **options).flatten(1)

            return paged

        off = _distance(llama, store.positions, look_back)
        if not off < CLOSE:
            raise RuntimeError(f"it is off by {off:.2g}")
    except (ImportError, TypeError, RuntimeError) as error:  # an older torch, float32, a size that kernels do not take
        log.warning("decoding without paged attention: %s", str(error).partition("\n")[0])
        return None
    return look_back


def _distance(llama: LiveLlama, positions: int, look_back: Callable[[Tensor, Tensor], LookBack]) -> float:
    """How far its results are from those of SDPA at the worst."""
    shape, draw = llama.shape, torch.Generator(llama.device).manual_seed(0)
    slots = torch.tensor([2, 0, 1], device=llama.device)
    places = torch.tensor([positions - 1, 0, positions // 2], device=llama.device)
    queries, layer = (
        torch.randn(size, generator=draw, device=llama.device, dtype=llama.dtype).clamp_(-1, 1)
        for size in ((3, shape.heads, shape.head_dim), (3, 2, shape.kv_heads, positions, shape.head_dim))
    )
    for slot, place in zip(slots.tolist(), places.tolist(), strict=True):
        layer[slot, :, :, place + 1 :] = torch.nan
    ways = look_back(slots, places), gather(llama, slots, places, positions)
    found, expected = (way(queries, layer).float() for way in ways)
    return float((found - expected).abs().max())


def capture(compute: Callable[[], Tensor], device: torch.device, pool: Any) -> Callable[[], Tensor]:
    """The same work as a CUDA graph. Its result is overwritten by the next replay of any graph of the pool."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, pool=pool):
            states = compute()

    def replay() -> Tensor:
        graph.replay()
        return states

    return replay
