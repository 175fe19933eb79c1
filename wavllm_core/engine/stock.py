"""A WavLLM in Hugging Face form behind the live engine: stock encoders, its own template, its language model packed.

Importing this brings transformers; a server with a rolling model never does. Conversations of several turns follow
Llama 2's chat form, which the published model was not trained on: it knows single turns.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavllm_core.engine.core import EngineLimits, OpenModel
from wavllm_core.engine.exact import ExactHearings
from wavllm_core.engine.language import Gates, Language
from wavllm_core.engine.llama import LiveLlama, Rope
from wavllm_core.engine.llama_shape import FAMILY, HEAD, PREFIX, LlamaShape
from wavllm_core.engine.load import Meter
from wavllm_core.engine.planner import PAST_TURNS, Planner
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.live import LiveStockEncoders
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.parts import loaded
from wavllm_core.hf.processor import WavLLMProcessor
from wavllm_core.prompt import Prompt, Turn

FULL = "full_attention"
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others depend on the length of a conversation
INST, INST_END = "[INST] ", " [/INST]"
ONE_VOICE = np.ones(1, np.float32)  # this model tells no voices apart


def load_stock(folder: Path) -> OpenModel:
    """What `Core` opens, from a folder that `save_pretrained` wrote. Raises CheckpointError as `stock` does."""
    model = loaded("model", folder, WavLLMForConditionalGeneration)
    return stock(model.eval(), loaded("processor", folder, WavLLMProcessor))


def stock(model: WavLLMForConditionalGeneration, processor: WavLLMProcessor) -> OpenModel:
    """The same from the parts; the model's own language model is taken apart.

    Raises CheckpointError naming the key of the configuration that the engine cannot serve.
    """
    shape = _shape(model)
    try:
        encoders = LiveStockEncoders(model, processor.feature_extractor)
    except ValueError as error:
        raise CheckpointError(str(error)) from error

    def open_model(limits: EngineLimits, clock: Callable[[], float], meter: Meter) -> tuple[Language, ExactHearings]:
        model.requires_grad_(False).to(limits.device, limits.torch_dtype)
        language = _language(model, processor, shape, limits)
        return language, ExactHearings(encoders, lambda _: ONE_VOICE, clock, lambda: 1000 * meter.queue_wait_s.value)

    return open_model


class PublishedPrompts:
    """The published template in token ids, with past turns before the open one."""

    def __init__(self, processor: WavLLMProcessor) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._past_ids = lru_cache(PAST_TURNS)(self._encode_past)

    def build(self, past: Sequence[Turn], turn: Turn, instruction: str) -> Prompt:
        """The system prompt stands in the first turn, whichever that is."""
        asked = instruction if turn.spoken else f"{turn.text} {instruction}".strip()
        first = self._processor.prompt(asked, turn.spoken, learn=False)
        after: list[int] = []
        if turn.spoken:
            at = first.index(self._processor.audio_token_id)
            first, after = first[:at], first[at + 1 :]
        if not past:
            return Prompt(first, after)
        opening = f"[INST]<<SYS>>\n{self._processor.system_prompt}\n<</SYS>>\n\n"
        ids = list(self._past_ids(past[0], opening))
        for old in past[1:]:
            ids.extend(self._past_ids(old, INST))
        last = f"{INST}<SPEECH>" if turn.spoken else f"{INST}{asked}{INST_END}"
        return Prompt([*ids, *self._begin(), *self.encode(last)], after)

    def length(self, turn: Turn) -> int:
        """Tokens that a past turn takes, the system prompt not counted."""
        return len(self._past_ids(turn, INST))

    def gate_ids(self, instruction: str) -> list[int]:
        """The instruction in double quotes. Raises InputError when it is too long."""
        return self._processor.instruction_ids(instruction)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, none added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_past(self, turn: Turn, opening: str) -> array[int]:
        words = self.encode(f"{opening}{turn.text}{INST_END} {turn.reply}")
        return array("i", [*self._begin(), *words, self._tokenizer.eos_token_id])

    def _begin(self) -> list[int]:
        begin = self._tokenizer.bos_token_id
        return [] if begin is None else [begin]


def _shape(model: WavLLMForConditionalGeneration) -> LlamaShape:
    text = model.config.text_config.to_dict()
    rope_type = (text.get("rope_parameters") or {}).get("rope_type", "default")
    attention = {*(text.get("layer_types") or ()), "sliding_attention" if text.get("sliding_window") else FULL}
    for key, value, served in (
        ("model_type", text["model_type"], FAMILY),
        ("hidden_act", text.get("hidden_act"), ("silu",)),
        ("rope_parameters.rope_type", rope_type, ROPE_TYPES),
        *(("layer_types", kind, (FULL,)) for kind in sorted(attention)),
    ):
        if value not in served:
            raise CheckpointError(f"text_config.{key}: {value!r}; the live engine serves {', '.join(served)}")
    return LlamaShape.of(text, model.config.lora_rank)


def _rope(model: WavLLMForConditionalGeneration) -> Rope:
    """As transformers works it out, which knows every way to stretch a context; in float32, whatever the model's."""
    theirs = model.llm.model.rotary_emb
    fresh = type(theirs)(model.config.text_config)
    return Rope(fresh.inv_freq, float(fresh.attention_scaling))


def _language(
    model: WavLLMForConditionalGeneration, processor: WavLLMProcessor, shape: LlamaShape, limits: EngineLimits
) -> Language:
    renamed = {
        HEAD if name == "lm_head.weight" else name.replace("model.", PREFIX, 1): value
        for name, value in model.llm.state_dict().items()
    }
    positions = model.config.text_config.max_position_embeddings
    llama = LiveLlama(shape, renamed, positions, limits.device, limits.torch_dtype, _rope(model))
    views = model.gate_views()[1]
    channels = torch.cat([views[f"{name}_proj"] for name in shape.widths])
    plain = torch.full((len(channels),), model.config.lora_alpha / model.config.lora_rank)

    def gate(states: Tensor, mask: Tensor) -> Tensor:
        return model.gate(states, mask)[0][channels] if model.config.use_gate else plain.to(states)

    prompts = PublishedPrompts(processor)
    model.llm = nn.Identity()  # its weights are packed now
    tokenizer: Any = processor.tokenizer
    gates = Gates(llama, prompts.gate_ids, gate, positions // 2)
    return Language(llama, gates, Planner(prompts, positions), tokenizer, _end_ids(model, tokenizer))


def _end_ids(model: WavLLMForConditionalGeneration, tokenizer: Any) -> frozenset[int]:
    """What ends a reply, as the model's own `generate` has it."""
    told = model.generation_config.eos_token_id
    if told is None:
        told = tokenizer.eos_token_id
    return frozenset([told] if isinstance(told, int) else told)
