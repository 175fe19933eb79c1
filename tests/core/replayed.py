"""What a GPU does that no CPU does, played on a CPU: CUDA graphs, and flash attention over pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = ("item", "is_nonzero", "resolve_conj", "lift_fresh", "nonzero", "masked_select")  # tolist begins with the third


class Recorder(TorchDispatchMode):
    """Notes every operation, and the tensors that it reads and makes."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, chosen = func.overloadpacket.__name__, tree_leaves(args[1:])
        by_numbers = name.startswith("index") and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in chosen)
        if name in HOST or by_numbers:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, tree_leaves(out)))
        return out


class Graph:
    """Does again what was recorded, with the numbers of the host as they were and the tensors where they were."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    def replay(self) -> None:
        for func, args, kwargs, made in self.recorder.done:
            for old, new in zip(made, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


class Stream:
    """One that is only named, and told."""

    def __init__(self, told: list[str], name: str) -> None:
        self.told, self.name = told, name

    def wait_stream(self, other: Stream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


@contextmanager
def cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Within, torch.cuda captures and replays on the CPU; yields what it was told, in order."""
    told: list[str] = []
    usual, current = Stream(told, "usual"), [Stream(told, "usual")]

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        told.append(f"on {stream.name}")
        yield
        current.pop()

    @contextmanager
    def graph(captured: Graph, pool: object) -> Iterator[None]:
        told.append(f"capture into {pool} behind {current[-1].name}")
        with captured.recorder:
            yield

    for name, fake in {
        "CUDAGraph": Graph,
        "Stream": lambda: Stream(told, "side"),
        "current_stream": lambda: current[-1] if len(current) > 1 else usual,
        "stream": on,
        "graph": graph,
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    yield told


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """What torch 2.13 makes of one query a row over pages, by its own checks and with its fault; in float32, too."""
    assert seqused_k is not None and block_table is not None
    if cu_seq_k is None:
        raise RuntimeError("cumulative_sequence_length_q and cumulative_sequence_length_k must be both set")
    for counts in (cu_seq_q, cu_seq_k, seqused_k, block_table):
        if counts.dtype != torch.int32 or not counts.is_contiguous():
            raise RuntimeError("lengths and tables must be contiguous int32")
    page, kv_heads = key.shape[1:3]
    rows, heads, _ = query.shape
    if page % 256:
        raise RuntimeError("Paged KV cache block size must be divisible by 256")
    if value.shape != key.shape or key.stride(-1) != 1 or block_table.shape != (rows, max_k // page):
        raise RuntimeError("pages have a wrong shape")
    if heads != kv_heads and not enable_gqa:
        raise ValueError("Try setting enable_gqa=True for GQA.")
    seen = torch.arange(page) < seqused_k[:, None]
    keys, values = (x[block_table[:, 0].long()].transpose(1, 2) for x in (key, value))
    keys, values = (x.masked_fill(~seen[:, None, :, None], 0.0) for x in (keys, values))
    mask = seen[:, None, None]
    out = F.scaled_dot_product_attention(query[:, :, None], keys, values, mask, enable_gqa=enable_gqa)[:, :, 0]
    if num_splits != 1 and heads == kv_heads:  # results of all rows go where the first one's belong
        out = torch.cat([out[-1:], torch.full_like(out[1:], torch.nan)])
    return out
