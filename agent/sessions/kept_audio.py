"""The sound of items, so that a client can ask for it again. Bounded: the oldest goes when there is too much."""

from __future__ import annotations

from typing import Final

MAX_KEPT_BYTES: Final = 4 * 2**20  # of one conversation: two minutes of what people said


class KeptAudio:
    """16-bit mono samples by item; each item has one rate, which whoever asks knows."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pcm: dict[str, bytearray] = {}  # oldest first
        self._bytes = 0

    def begin(self, item_id: str) -> None:
        """An item that is going to have sound, and has none yet."""
        self.forget(item_id)
        self._pcm[item_id] = bytearray()

    def add(self, item_id: str, pcm: bytes) -> None:
        """More sound of an item; nothing of one that was forgotten, as one longer than all may be is."""
        if item_id not in self._pcm:
            return
        self._pcm[item_id] += pcm
        self._bytes += len(pcm)
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._pcm)))

    def get(self, item_id: str) -> bytes | None:
        """All of it, or None."""
        kept = self._pcm.get(item_id)
        return None if kept is None else bytes(kept)

    def cut(self, item_id: str, samples: int) -> None:
        """Keep the beginning."""
        if kept := self._pcm.get(item_id):
            self._bytes -= max(0, len(kept) - 2 * samples)
            del kept[2 * samples :]

    def forget(self, item_id: str) -> None:
        """Harmless when nothing is kept."""
        self._bytes -= len(self._pcm.pop(item_id, b""))
