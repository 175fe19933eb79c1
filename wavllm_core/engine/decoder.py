"""A checkpoint, ready to hear and to answer: its parts, its gates, and what a conversation looks like to it.

Synchronous; knows no threads. `reply` answers one conversation alone: what the live engine must equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.kv import name_vectors
from wavllm_core.engine.llama import LiveLlama, LlamaShape, Row
from wavllm_core.engine.sampling import Chooser, Spelling
from wavllm_core.errors import CheckpointError, InputError
from wavllm_core.gate import PromptGate
from wavllm_core.prompt import EOS, PromptTemplate, Turn
from wavllm_core.speech import SpeechEncoder

MAX_GATES = 64  # instructions that are remembered; sessions bring few
OPEN_TURN_SHARE = 4  # a quarter of the context is kept for the open turn and its reply, even if they are short
DROP_SHARE = 4  # past turns go by quarters of the context, so that not every turn moves all that follow


@dataclass(frozen=True, eq=False)
class Plan:
    """What should stand in a conversation's slot, from its first position on."""

    keys: list[int]  # token ids, and the names of audio vectors
    instruction: str  # whose gate it is computed with
    speech_at: int = 0  # where the vectors begin
    speech_embeds: Tensor | None = None  # (vectors, dim)

    def extended(self, keys: Sequence[int], speech_embeds: Tensor) -> Plan:
        """The same with more vectors at the end, all of them given again as (vectors, dim)."""
        return replace(self, keys=[*self.keys, *keys], speech_embeds=speech_embeds)


class Decoder:
    """Weights and prompts; shared by all conversations."""

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """Raises CheckpointError where the tensors do not fit the configuration."""
        self.config = config = checkpoint.config
        self.speech = SpeechEncoder(config).eval().requires_grad_(False)
        self.prompt_gate = PromptGate(config.llama["hidden_size"], config.lora).eval().requires_grad_(False)
        self.shape = shape = LlamaShape.of(config)
        if len(set(shape.widths.values())) > 1:
            raise CheckpointError("llama.num_key_value_heads: the prompt-aware gate has one width for q, k, v and o")
        wanted = {name: tuple(value.shape) for name, value in self.speech.state_dict().items()}
        wanted |= {f"gate.{name}": tuple(value.shape) for name, value in self.prompt_gate.state_dict().items()}
        checkpoint.refuse_misfits(wanted | shape.tensors())
        tensors = checkpoint.tensors
        self.speech.load_state_dict({name: tensors[name] for name in self.speech.state_dict()})
        self.prompt_gate.load_state_dict({n: tensors[f"gate.{n}"] for n in self.prompt_gate.state_dict()})
        self.speech.to(device, dtype)
        self.prompt_gate.to(device, dtype)
        self.llama = LiveLlama(shape, tensors, config.max_context, device, dtype)
        self.tokenizer = checkpoint.tokenizer
        self.template = PromptTemplate(checkpoint.tokenizer, config.system_prompt)
        self.end_id = checkpoint.tokenizer.token_to_id(EOS)
        self.gates: dict[str, Tensor] = {}  # by instruction
        self._past_ids = lru_cache(maxsize=4096)(self._encode_past)

    @torch.inference_mode()
    def gate(self, instruction: str) -> Tensor:
        """The gate of an instruction for q, k, v and o. Raises InputError for one longer than half the context."""
        if instruction not in self.gates:
            ids, most = self.template.gate_ids(instruction), self.config.max_context // 2
            if len(ids) > most:
                raise InputError(f"instructions: {len(ids)} tokens; at most {most} are possible")
            store = self.llama.new_store(1, len(ids))
            states = self.llama.step(store, [Row(store.acquire(), ids, self.llama.embed(ids), gate=None)])
            mask = torch.ones(1, len(ids), dtype=torch.bool, device=states.device)
            while len(self.gates) >= MAX_GATES:
                del self.gates[next(iter(self.gates))]
            self.gates[instruction] = self.prompt_gate(states[None], mask)[0].repeat(len(self.shape.widths))
        return self.gates[instruction]

    def plan(self, history: Sequence[Exchange], instruction: str, max_tokens: int) -> Plan:
        """What the last exchange is answered from; the oldest ones are left out whole when the context is full.

        Raises InputError when the last exchange alone does not fit, or the instruction is too long for a gate.
        """
        self.gate(instruction)
        last = history[-1]
        turn = Turn(last.text, spoken=last.heard is not None, speaker=last.speaker)
        embeds = last.heard.speech_embeds if last.heard else None
        names: Sequence[int] = ()
        if last.heard:
            names = last.heard.vector_names or name_vectors(len(last.heard.speech_embeds))
        alone = self.template.build([], turn, instruction)
        own = len(alone.before) + len(names) + len(alone.after)
        if own > self.config.max_context - max_tokens:
            raise InputError(
                f"this turn needs {own} tokens; at most {self.config.max_context - max_tokens} are possible"
            )
        before = self._with_past(alone.before, self.recent(history[:-1], own + max_tokens))
        return Plan([*before, *names, *alone.after], instruction, len(before), embeds)

    def plan_listening(
        self, history: Sequence[Exchange], instruction: str, vectors: int = 0, max_tokens: int = 0
    ) -> Plan:
        """What stands before the next spoken turn, `vectors` long so far; all of `history` is past.

        max_tokens: that the reply is going to be allowed

        Raises InputError when the instruction is too long for a gate.
        """
        self.gate(instruction)
        turn = Turn(spoken=True)
        alone = self.template.build([], turn, instruction)
        own = len(alone.before) + vectors + len(alone.after) + max_tokens
        before = self._with_past(alone.before, self.recent(history, own))
        return Plan(before, instruction, len(before))

    def recent(self, history: Sequence[Exchange], own: int) -> list[Turn]:
        """The past turns that stay when the open turn and its reply need `own` positions.

        Depends on the turns alone, never on what happens to be in the store.
        """
        past = [Turn(old.text, speaker=old.speaker, reply=old.reply) for old in history if old.reply is not None]
        lengths = [len(self._past_ids(turn)) for turn in past]
        context = self.config.max_context
        excess = sum(lengths) + max(own, context // OPEN_TURN_SHARE) - context
        quantum = context // DROP_SHARE
        surplus = -(-excess // quantum) * quantum
        first = 0
        while surplus > 0 and first < len(past):
            surplus -= lengths[first]
            first += 1
        return past[first:]

    def _with_past(self, before: list[int], past: Sequence[Turn]) -> list[int]:
        """What `template.build` puts before the audio; every past turn is tokenized only once."""
        opening = len(self.template.encode(self.template.opening))
        return [*before[:opening], *chain.from_iterable(self._past_ids(turn) for turn in past), *before[opening:]]

    def _encode_past(self, turn: Turn) -> tuple[int, ...]:
        """A turn's part of a prompt. It begins and ends with special tokens, so its neighbours do not matter."""
        opening, nothing = len(self.template.encode(self.template.opening)), Turn()
        rest = len(self.template.build([], nothing, "").before) - opening
        ids = self.template.build([turn], nothing, "").before
        return tuple(ids[opening : len(ids) - rest])

    def inputs(self, plan: Plan, start: int, end: int) -> Tensor:
        """What the model reads at these positions of a plan, (end - start, dim)."""
        inputs = self.llama.embed([max(0, key) for key in plan.keys[start:end]])
        if plan.speech_embeds is not None:
            first, last = max(start, plan.speech_at), min(end, plan.speech_at + len(plan.speech_embeds))
            if first < last:
                vectors = plan.speech_embeds[first - plan.speech_at : last - plan.speech_at]
                inputs[first - start : last - start] = vectors.to(inputs.dtype)
        return inputs

    def reply(self, history: Sequence[Exchange], instruction: str, sampling: Sampling) -> Iterator[str]:
        """The answer to the last exchange, piece by piece, computed alone and from nothing.

        Raises InputError as `plan` does, CoreError on logits that are no numbers.
        """
        plan = self.plan(history, instruction, sampling.max_tokens)
        store = self.llama.new_store(1, len(plan.keys) + sampling.max_tokens)
        slot, gate = store.acquire(), self.gate(instruction)
        chooser, spelling = Chooser(sampling), Spelling(self.tokenizer, sampling.stop)
        keys, inputs = plan.keys, self.inputs(plan, 0, len(plan.keys))
        for _ in range(sampling.max_tokens):
            with torch.inference_mode():
                states = self.llama.step(store, [Row(slot, keys, inputs, gate)])
                token = chooser.choose(self.llama.logits(states[-1]))
            if token == self.end_id:
                break
            yield spelling.add(token)
            if spelling.stopped:
                break
            keys, inputs = [token], self.llama.embed([token])
        yield spelling.finish()
