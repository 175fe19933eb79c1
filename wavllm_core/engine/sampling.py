"""From logits to tokens, and from tokens to pieces of text. One object of each kind for one reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavllm_core.engine.api import Sampling
from wavllm_core.errors import CoreError, InputError

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a part of a character decodes


class Chooser:
    """Draws the tokens of one reply; the same seed draws the same."""

    def __init__(self, sampling: Sampling) -> None:
        """Raises InputError for a temperature or a seed that nothing can be drawn with."""
        if not math.isfinite(sampling.temperature):
            raise InputError(f"temperature: {sampling.temperature}; a number is needed")
        if not -(2**63) <= sampling.seed < 2**64:
            raise InputError(f"seed: {sampling.seed}; at most 64 bits are possible")
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken always."""
        return self._sampling.temperature <= 0

    def draw(self, logits: Tensor) -> int:
        """The next token, (vocabulary,) -> id."""
        logits = logits.float().cpu()
        probabilities = ((logits - logits.max()) / self._sampling.temperature).softmax(-1)  # however cold: no overflow
        if self._sampling.top_p < 1:
            ranked, order = probabilities.sort(descending=True)
            ranked[1:][(ranked.cumsum(-1) - ranked)[1:] >= self._sampling.top_p] = 0  # the first one always stays
            return int(order[torch.multinomial(ranked, 1, generator=self._generator)])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def choose(choosers: Sequence[Chooser], logits: Tensor) -> list[int | CoreError]:
    """The next token of each reply, (replies, vocabulary) -> ids; an error where a logit is no number.

    The likeliest tokens are found where the logits are, all at once; only drawn ones are brought to the CPU.
    """
    likeliest = torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1).tolist()
    return [
        CoreError("the model's output is not finite") if best < 0 else best if chooser.greedy else chooser.draw(row)
        for best, chooser, row in zip(likeliest, choosers, logits, strict=True)
    ]


def log_probability(logits: Tensor, token: int) -> float:
    """Of a token, (vocabulary,) -> natural logarithm."""
    return float(logits.float().log_softmax(-1)[token])


class Spelling:
    """The text of one reply as it grows; holds back half characters, and what may become a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._sent = 0  # characters
        self.stopped = False  # a stop string came; it is not part of the text

    def add(self, token_id: int) -> str:
        """Take in a token; returns the text that is certain now, empty while there is none."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True).removesuffix(INCOMPLETE)
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._send(text[: min(found)])
        return self._send(text[: len(text) - self._held_back(text)])

    def finish(self) -> str:
        """What was held back in vain."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True).removesuffix(INCOMPLETE)
        return "" if self.stopped else self._send(text)

    def _send(self, text: str) -> str:
        new = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return new

    def _held_back(self, text: str) -> int:
        starts = (size for stop in self._stop for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(starts, default=0)
