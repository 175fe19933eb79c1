"""Keys and values of every conversation, in slots of one store that is allocated once.

A slot knows what stands at each of its positions: a token id, or a negative number that names one audio
vector. What a conversation wants there next is compared with what is there, the common beginning stays, and
truncation is the only way back. The store is a cache: whoever loses a slot computes it again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wavllm_core.errors import CapacityError

_names = itertools.count(1)


def name_vectors(count: int) -> list[int]:
    """Names for so many audio vectors, never used before."""
    return [-next(_names) for _ in range(count)]


@dataclass(eq=False)
class Slot:
    """One conversation's place in the store."""

    index: int
    keys: list[int] = field(default_factory=list)  # what stands at each position
    gate: str | None = None  # the instruction whose gate it was computed with; None: base model
    state: Tensor | None = None  # (dim,) of the last position, before the last norm, where it is kept

    def append(self, keys: Sequence[int]) -> None:
        """Note what was computed for the next positions."""
        self.keys += keys
        self.state = None

    def clear(self) -> None:
        """Forget everything."""
        self.keys, self.state = [], None

    def keep_common(self, keys: Sequence[int], gate: str | None) -> int:
        """Forget all behind the longest beginning shared with `keys`; returns its length."""
        if gate != self.gate:
            self.clear()
            self.gate = gate
        same = 0
        for mine, wanted in zip(self.keys, keys, strict=False):
            if mine != wanted:
                break
            same += 1
        if same < len(self.keys):
            del self.keys[same:]
            self.state = None
        return same


class KeyValueStore:
    """`slots` conversations of at most `positions` each; nothing is allocated later."""

    def __init__(
        self,
        slots: int,
        layers: int,
        heads: int,
        positions: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.positions = positions
        self.tensor: Tensor = torch.empty(slots, layers, 2, heads, positions, head_dim, device=device, dtype=dtype)
        self._free = list(range(slots))[::-1]
        self._held: set[Slot] = set()

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self.tensor)

    @property
    def held(self) -> int:
        """How many are taken."""
        return len(self._held)

    @property
    def filled(self) -> int:
        """Positions that hold something."""
        return sum(len(slot.keys) for slot in self._held)

    def acquire(self) -> Slot:
        """An empty slot. Raises CapacityError when all are taken."""
        if not self._free:
            raise CapacityError(f"all {self.slots} conversations that the key-value store has room for are under way")
        slot = Slot(self._free.pop())
        self._held.add(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back. Raises ValueError for one that was given back before."""
        if slot not in self._held:
            raise ValueError(f"slot {slot.index} is not held")
        self._held.remove(slot)
        self._free.append(slot.index)
