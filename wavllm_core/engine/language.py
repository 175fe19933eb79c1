"""The language side of a model, whatever its encoders: weights, gates, plans, tokens. Shared by all conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.llama import LiveLlama, Row
from wavllm_core.engine.planner import Planner
from wavllm_core.engine.sampling import Chooser, Spelling, choose
from wavllm_core.errors import CoreError, InputError

MAX_GATES = 1024  # instructions that are remembered, those of all conversations; 32 kB each for a model of 7B
MAX_TOKEN_CHARS = 16  # of an instruction on average; one that has more characters is not even tokenized


class Gates:
    """The gate of each instruction for q, k, v and o, worked out once."""

    def __init__(
        self, llama: LiveLlama, read: Callable[[str], list[int]], gate: Callable[[Tensor, Tensor], Tensor], most: int
    ) -> None:
        """`gate` makes it of the base model's states, (1, tokens, dim), and their mask; `most` tokens are read."""
        self._llama, self._read, self._gate, self._most = llama, read, gate, most
        self._known: dict[str, Tensor | str] = {}  # why not, where there can be none; used last at the end

    @torch.inference_mode()
    def of(self, instruction: str) -> Tensor:
        """(sum of `LlamaShape.widths`,). Raises InputError for an instruction that is too long."""
        if len(instruction) > MAX_TOKEN_CHARS * self._most:
            most = MAX_TOKEN_CHARS * self._most
            raise InputError(f"instructions: {len(instruction)} characters; at most {most} are possible")
        known = self._known.pop(instruction, None)
        if known is None:
            known = self._work_out(instruction)
            while len(self._known) >= MAX_GATES:
                del self._known[next(iter(self._known))]
        self._known[instruction] = known
        if isinstance(known, str):
            raise InputError(known)
        return known

    def _work_out(self, instruction: str) -> Tensor | str:
        """The gate, or why there is none."""
        ids = self._read(instruction)
        if len(ids) > self._most:
            return f"instructions: {len(ids)} tokens; at most {self._most} are possible"
        store = self._llama.new_store(1, len(ids))
        states = self._llama.step(store, [Row(store.acquire(), ids, None, gate=None)])
        mask = torch.ones(1, len(ids), dtype=torch.bool, device=states.device)
        return self._gate(states[None], mask)


class Tokenizer(Protocol):
    """What both tokenizer libraries can do."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Text of tokens."""


@dataclass(frozen=True, eq=False)
class Language:
    """Everything that turns a conversation into a reply."""

    llama: LiveLlama
    gates: Gates
    planner: Planner
    tokenizer: Tokenizer
    end_ids: frozenset[int]

    def reply(self, history: Sequence[Exchange], instruction: str, sampling: Sampling) -> Iterator[str]:
        """The answer to the last exchange, piece by piece, computed alone and from nothing: the live engine's measure.

        Raises InputError for what does not fit, CoreError on logits that are no numbers.
        """
        gate = self.gates.of(instruction)
        plan = self.planner.plan(history, instruction, sampling.max_tokens, sampling.begins)
        store = self.llama.new_store(1, len(plan.keys) + sampling.max_tokens)
        slot, chooser, spelling = store.acquire(), Chooser(sampling), Spelling(self.tokenizer, sampling.stop)
        row = Row(slot, plan.keys, plan.inputs(self.llama, 0, len(plan.keys)), gate)
        for _ in range(sampling.max_tokens):
            with torch.inference_mode():
                (token,) = choose([chooser], self.llama.logits(self.llama.step(store, [row])[-1:]))
            if isinstance(token, CoreError):
                raise token
            if token in self.end_ids:
                break
            yield spelling.add(token)
            if spelling.stopped:
                break
            row = Row(slot, [token], None, gate)
        yield spelling.finish()
