"""From a prompt and audio vectors to tokens, one step at a time. Synchronous; knows no threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.errors import CoreError, InputError
from wavllm_core.lora import gated
from wavllm_core.prompt import Prompt, PromptTemplate, Turn


class Decoder:
    """Decodes replies for one checkpoint; gates are computed once per instruction."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer
        self.template = PromptTemplate(checkpoint.tokenizer, checkpoint.model.config.system_prompt)
        self.llama = checkpoint.model.llm.get_base_model()
        self.gates: dict[str, Tensor] = {}  # by instruction; sessions bring few
        self.max_gates = 64

    def gate(self, instruction: str) -> Tensor:
        """The gate of an instruction, (1, dim). Raises InputError for one longer than the context."""
        if instruction not in self.gates:
            ids = self.template.gate_ids(instruction)
            if len(ids) > self.model.config.max_context // 2:
                raise InputError(
                    f"instructions: {len(ids)} tokens; at most {self.model.config.max_context // 2} are possible"
                )
            while len(self.gates) >= self.max_gates:
                del self.gates[next(iter(self.gates))]
            with torch.inference_mode():
                self.gates[instruction] = self.model.gate_for([ids])
        return self.gates[instruction]

    def fit(self, history: Sequence[Exchange], instruction: str, max_tokens: int) -> Prompt:
        """The prompt for the last exchange, the oldest ones left out whole where it would be too long.

        Raises InputError when the last exchange alone does not fit.
        """
        last = history[-1]
        vectors = len(last.heard.speech_embeds) if last.heard else 0
        turn = Turn(last.text, spoken=last.heard is not None, speaker=last.speaker)
        past = [Turn(old.text, speaker=old.speaker, reply=old.reply) for old in history[:-1]]
        room = self.model.config.max_context - vectors - max_tokens
        while True:
            prompt = self.template.build(past, turn, instruction)
            length = len(prompt.before) + len(prompt.after)
            if length <= room:
                return prompt
            if not past:
                raise InputError(f"this turn needs {length + vectors} tokens; at most {room + vectors} are possible")
            del past[0]

    def reply(self, history: Sequence[Exchange], instruction: str, sampling: Sampling) -> Iterator[str]:
        """The answer to the last exchange, piece by piece; each piece is one step of work.

        Raises InputError as `gate` and `fit` do, CoreError on logits that are no numbers.
        """
        gate = self.gate(instruction)
        prompt, heard = self.fit(history, instruction, sampling.max_tokens), history[-1].heard
        generator = torch.Generator().manual_seed(sampling.seed)
        inputs = self.model.embed(torch.tensor([prompt.before]))
        if heard is not None:
            after = self.model.embed(torch.tensor([prompt.after]))
            inputs = torch.cat([inputs, heard.speech_embeds[None], after], dim=1)
        cache, ids, sent = DynamicCache(config=self.llama.config), [], ""
        for _ in range(sampling.max_tokens):
            with torch.inference_mode(), gated(self.model.llm, gate):
                output = self.llama(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = choose(output.logits[0, -1], sampling.temperature, generator)
            if token == self.tokenizer.eos_token_id:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
            else:
                yield ""  # half a character: nothing to show yet, but a step has passed
            inputs = self.model.embed(torch.tensor([[token]]))


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The next token, (vocabulary,) -> id. Raises CoreError when a logit is no number."""
    if not logits.isfinite().all():
        raise CoreError("the model's output is not finite")
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
