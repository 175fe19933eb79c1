"""What should stand in a conversation's slot: tokens of the past, names of audio vectors, the question.

Depends on what was said alone, never on what happens to be in the store, so that answers do not either.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Protocol

from torch import Tensor

from wavllm_core.engine.api import Exchange
from wavllm_core.engine.kv import name_vectors
from wavllm_core.engine.llama import LiveLlama
from wavllm_core.errors import InputError
from wavllm_core.prompt import Prompt, PromptTemplate, Turn

OPEN_TURN_SHARE = 4  # a quarter of the context is kept for the open turn and its reply, even if they are short
DROP_SHARE = 4  # past turns go by quarters of the context, so that not every turn moves all that follow
PAST_TURNS = 4096  # whose token ids are kept, 0.7 kB each with its words: more than 32 sessions of 64 exchanges have


@dataclass(frozen=True, eq=False)
class Plan:
    """What should stand in a conversation's slot, from its first position on."""

    keys: list[int]  # token ids, and the names of audio vectors
    instruction: str  # whose gate it is computed with
    speech_at: int = 0  # where the vectors begin
    speech_embeds: Tensor | None = None  # (vectors, dim)

    def extended(self, keys: Sequence[int], speech_embeds: Tensor) -> Plan:
        """The same with vectors at its end, (vectors, dim)."""
        return replace(self, keys=[*self.keys, *keys], speech_embeds=speech_embeds)

    def inputs(self, llama: LiveLlama, start: int, end: int) -> Tensor:
        """What the model reads at these positions, (end - start, dim)."""
        inputs = llama.embed([max(0, key) for key in self.keys[start:end]])
        if self.speech_embeds is not None:
            first, last = max(start, self.speech_at), min(end, self.speech_at + len(self.speech_embeds))
            if first < last:
                vectors = self.speech_embeds[first - self.speech_at : last - self.speech_at]
                inputs[first - start : last - start] = vectors.to(inputs)
        return inputs


class Prompts(Protocol):
    """A template in token ids."""

    def build(self, past: Sequence[Turn], turn: Turn, instruction: str) -> Prompt:
        """The prompt for `turn`."""

    def length(self, turn: Turn) -> int:
        """Tokens that a past turn takes."""

    def gate_ids(self, instruction: str) -> list[int]:
        """What the prompt-aware gate reads."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, none added."""


class RollingPrompts:
    """The rolling model's template; every past turn is tokenized only once."""

    def __init__(self, template: PromptTemplate) -> None:
        self.encode, self.gate_ids = template.encode, template.gate_ids
        self._template = template
        self._opening = len(template.encode(template.opening))
        self._past_ids = lru_cache(PAST_TURNS)(self._encode_past)

    def build(self, past: Sequence[Turn], turn: Turn, instruction: str) -> Prompt:
        """As the template does."""
        alone = self._template.build([], turn, instruction)
        opening, rest = alone.before[: self._opening], alone.before[self._opening :]
        return Prompt([*opening, *chain.from_iterable(map(self._past_ids, past)), *rest], alone.after)

    def length(self, turn: Turn) -> int:
        """Tokens that a past turn takes."""
        return len(self._past_ids(turn))

    def _encode_past(self, turn: Turn) -> array[int]:
        """A turn's part of a prompt. It begins and ends with special tokens, so its neighbours do not matter."""
        nothing = Turn()
        rest = len(self._template.build([], nothing, "").before) - self._opening
        ids = self._template.build([turn], nothing, "").before
        return array("i", ids[self._opening : len(ids) - rest])


class Planner:
    """Plans for one template and one length of context."""

    def __init__(self, prompts: Prompts, max_context: int) -> None:
        self.prompts, self.max_context = prompts, max_context

    def plan(self, history: Sequence[Exchange], instruction: str, max_tokens: int, begins: str = "") -> Plan:
        """What the last exchange is answered from; the oldest ones are left out whole when the context is full.

        begins: the answer, up to where the model goes on
        Raises InputError when the last exchange alone does not fit.
        """
        last = history[-1]
        turn = Turn(last.text, spoken=last.heard is not None, speaker=last.speaker)
        embeds = last.heard.speech_embeds if last.heard else None
        names: Sequence[int] = ()
        if last.heard:
            names = last.heard.vector_names or name_vectors(len(last.heard.speech_embeds))
        begun = self.prompts.encode(begins) if begins else []
        own, most = self._own(turn, instruction, len(names)) + len(begun), self.max_context - max_tokens
        if own > most:
            raise InputError(f"this turn needs {own} tokens; at most {most} are possible")
        prompt = self.prompts.build(self.recent(history[:-1], own + max_tokens), turn, instruction)
        return Plan([*prompt.before, *names, *prompt.after, *begun], instruction, len(prompt.before), embeds)

    def plan_listening(
        self, history: Sequence[Exchange], instruction: str, vectors: int = 0, max_tokens: int = 0
    ) -> Plan:
        """What stands before the next spoken turn, `vectors` long so far; all of `history` is past.

        max_tokens: that the reply is going to be allowed
        """
        turn = Turn(spoken=True)
        own = self._own(turn, instruction, vectors) + max_tokens
        before = self.prompts.build(self.recent(history, own), turn, instruction).before
        return Plan(before, instruction, len(before))

    def recent(self, history: Sequence[Exchange], own: int) -> list[Turn]:
        """The past turns that stay when the open turn and its reply need `own` positions."""
        past = [Turn(old.text, speaker=old.speaker, reply=old.reply) for old in history if old.reply is not None]
        lengths = [self.prompts.length(turn) for turn in past]
        excess = sum(lengths) + max(own, self.max_context // OPEN_TURN_SHARE) - self.max_context
        quantum = self.max_context // DROP_SHARE
        surplus = -(-excess // quantum) * quantum
        first = 0
        while surplus > 0 and first < len(past):
            surplus -= lengths[first]
            first += 1
        return past[first:]

    def _own(self, turn: Turn, instruction: str, vectors: int) -> int:
        alone = self.prompts.build([], turn, instruction)
        return len(alone.before) + vectors + len(alone.after)
