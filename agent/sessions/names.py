"""Names for what one session makes: events, items, responses. The same seed gives the same names in the same order."""

from __future__ import annotations

import random
import secrets


class Names:
    """Call it with a prefix. No name tells anything, and none opens anything: they are no secrets."""

    def __init__(self, seed: str | None = None) -> None:
        self.seed = seed or secrets.token_hex(16)
        self._random = random.Random(self.seed)

    def __call__(self, prefix: str) -> str:
        return f"{prefix}_{self._random.getrandbits(64):016x}"
