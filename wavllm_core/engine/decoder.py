"""From conversations to replies, one step at a time. Synchronous; knows no threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.llama import KeyValueCache, LiveLlama, LlamaShape
from wavllm_core.errors import CoreError, InputError
from wavllm_core.gate import PromptGate
from wavllm_core.prompt import EOS, Prompt, PromptTemplate, Turn
from wavllm_core.speech import SpeechEncoder

MAX_GATES = 64  # instructions that are remembered; sessions bring few
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a part of a character decodes


class Decoder:
    """A checkpoint, ready to hear and to answer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError where the tensors do not fit the configuration."""
        self.config = config = checkpoint.config
        self.speech = SpeechEncoder(config).eval().requires_grad_(False)
        self.prompt_gate = PromptGate(config.llama["hidden_size"], config.lora).eval().requires_grad_(False)
        shape = LlamaShape.of(config)
        wanted = {name: tuple(value.shape) for name, value in self.speech.state_dict().items()}
        wanted |= {f"gate.{name}": tuple(value.shape) for name, value in self.prompt_gate.state_dict().items()}
        checkpoint.refuse_misfits(wanted | shape.tensors())
        tensors = checkpoint.tensors
        self.speech.load_state_dict({name: tensors[name] for name in self.speech.state_dict()})
        self.prompt_gate.load_state_dict({n: tensors[f"gate.{n}"] for n in self.prompt_gate.state_dict()})
        self.llama = LiveLlama(shape, tensors, config.max_context)
        self.tokenizer = checkpoint.tokenizer
        self.template = PromptTemplate(checkpoint.tokenizer, config.system_prompt)
        self.end_id = checkpoint.tokenizer.token_to_id(EOS)
        self.gates: dict[str, Tensor] = {}  # by instruction

    @torch.inference_mode()
    def gate(self, instruction: str) -> Tensor:
        """The gate of an instruction, (dim,). Raises InputError for one longer than half the context."""
        if instruction not in self.gates:
            ids, most = self.template.gate_ids(instruction), self.config.max_context // 2
            if len(ids) > most:
                raise InputError(f"instructions: {len(ids)} tokens; at most {most} are possible")
            states = self.llama.states(self.llama.embed(ids), KeyValueCache(self.llama.shape, len(ids)), gate=None)
            while len(self.gates) >= MAX_GATES:
                del self.gates[next(iter(self.gates))]
            self.gates[instruction] = self.prompt_gate(states[None], torch.ones(1, len(ids), dtype=torch.bool))[0]
        return self.gates[instruction]

    def fit(self, history: Sequence[Exchange], instruction: str, max_tokens: int) -> Prompt:
        """The prompt for the last exchange, the oldest ones left out whole where it would be too long.

        Raises InputError when the last exchange alone does not fit.
        """
        last = history[-1]
        vectors = len(last.heard.speech_embeds) if last.heard else 0
        turn = Turn(last.text, spoken=last.heard is not None, speaker=last.speaker)
        past = [Turn(old.text, speaker=old.speaker, reply=old.reply) for old in history[:-1]]
        room = self.config.max_context - vectors - max_tokens
        while True:
            prompt = self.template.build(past, turn, instruction)
            length = len(prompt.before) + len(prompt.after)
            if length <= room:
                return prompt
            if not past:
                most = room + vectors
                raise InputError(f"this turn needs {length + vectors} tokens; at most {most} are possible")
            del past[0]

    def reply(self, history: Sequence[Exchange], instruction: str, sampling: Sampling) -> Iterator[str]:
        """The answer to the last exchange, piece by piece; each piece is one step of work.

        Raises InputError as `gate` and `fit` do, CoreError on logits that are no numbers.
        """
        gate = self.gate(instruction)
        prompt, heard = self.fit(history, instruction, sampling.max_tokens), history[-1].heard
        generator = torch.Generator().manual_seed(sampling.seed)
        inputs = self.llama.embed(prompt.before)
        if heard is not None:
            inputs = torch.cat([inputs, heard.speech_embeds, self.llama.embed(prompt.after)])
        cache = KeyValueCache(self.llama.shape, len(inputs) + sampling.max_tokens)
        ids: list[int] = []
        sent = ""
        for _ in range(sampling.max_tokens):
            with torch.inference_mode():
                logits = self.llama.logits(self.llama.states(inputs, cache, gate)[-1])
                token = choose(logits, sampling.temperature, generator)
            if token == self.end_id:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            whole = text.removesuffix(INCOMPLETE)
            yield whole[len(sent) :]  # empty while a character is incomplete
            sent = whole if len(whole) > len(sent) else sent
            inputs = self.llama.embed([token])


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The next token, (vocabulary,) -> id. Raises CoreError when a logit is no number."""
    if not logits.isfinite().all():
        raise CoreError("the model's output is not finite")
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
