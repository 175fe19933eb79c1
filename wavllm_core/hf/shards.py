"""Sharded safetensors written tensor by tensor: the library's own writer wants a whole shard in memory.

The format is eight bytes of length, a JSON header with each tensor's place, then the tensors as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from wavllm_core.errors import CheckpointError

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
INDEX = "model.safetensors.index.json"
PARTIAL = ".partial"
Row = tuple[str, tuple[int, ...], torch.dtype]


class ShardWriter:
    """Takes tensors in the order that was announced; `finish` or `abandon` it."""

    def __init__(self, out: Path, max_shard_bytes: int, rows: Sequence[Row]) -> None:
        """`rows` are the name, shape and dtype of every tensor to come. Raises CheckpointError for another dtype."""
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.shards: list[list[tuple[str, tuple[int, ...], torch.dtype, int]]] = [[]]
        filled = 0
        for name, shape, dtype in rows:
            if dtype not in DTYPES:
                raise CheckpointError(f"{name}: {dtype} cannot be written")
            size = torch.Size(shape).numel() * dtype.itemsize
            if self.shards[-1] and filled + size > max_shard_bytes:
                self.shards.append([])
                filled = 0
            self.shards[-1].append((name, shape, dtype, size))
            filled += size
        self.expected = iter([(i, row) for i, shard in enumerate(self.shards) for row in shard])
        self.open_shard = -1
        self.file: BinaryIO | None = None

    def path(self, shard: int) -> Path:
        """As transformers names them."""
        return self.out / f"model-{shard + 1:05d}-of-{len(self.shards):05d}.safetensors"

    def write(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor. Raises ValueError when another one was announced."""
        shard, (expected, shape, dtype, _) = next(self.expected)
        if (name, tuple(tensor.shape), tensor.dtype) != (expected, shape, dtype):
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} where {expected} {shape} {dtype} was due")
        if shard != self.open_shard:
            self._begin(shard)
        assert self.file is not None
        flat = tensor.contiguous().flatten()
        self.file.write(memoryview(flat.view(torch.uint8).numpy()))

    def finish(self) -> None:
        """Give every shard its name and write the index; a half-written folder never looks whole."""
        self._close()
        for shard in range(len(self.shards)):
            self._partial(shard).rename(self.path(shard))
        places = {row[0]: self.path(i).name for i, rows in enumerate(self.shards) for row in rows}
        total = sum(row[3] for rows in self.shards for row in rows)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (self.out / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def abandon(self) -> None:
        """Remove what was written."""
        self._close()
        for shard in range(len(self.shards)):
            self._partial(shard).unlink(missing_ok=True)

    def _partial(self, shard: int) -> Path:
        return self.path(shard).with_suffix(PARTIAL)

    def _begin(self, shard: int) -> None:
        self._close()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape, dtype, size in self.shards[shard]:
            header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file = self._partial(shard).open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.open_shard = shard

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
