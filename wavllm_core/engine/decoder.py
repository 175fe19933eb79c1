"""A rolling checkpoint, ready to hear and to answer. Synchronous; knows no threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.language import Gates, Language
from wavllm_core.engine.llama import LiveLlama
from wavllm_core.engine.llama_shape import LlamaShape
from wavllm_core.engine.planner import Planner, RollingPrompts
from wavllm_core.errors import CheckpointError
from wavllm_core.gate import PromptGate
from wavllm_core.prompt import EOS, PromptTemplate
from wavllm_core.speech import SpeechEncoder


class Decoder:
    """The encoders, and the language side."""

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype` is the language model's. Raises CheckpointError where the tensors do not fit the configuration."""
        config, tensors = checkpoint.config, checkpoint.tensors
        end_id = checkpoint.tokenizer.token_to_id(EOS)
        if end_id is None:
            raise CheckpointError(f"{checkpoint.folder}: a tokenizer without {EOS}")
        self.speech = SpeechEncoder(config).eval().requires_grad_(False)
        prompt_gate = PromptGate(config.llama["hidden_size"], config.lora).eval().requires_grad_(False)
        rope_type = (config.llama.get("rope_parameters") or {}).get("rope_type", "default")
        if rope_type != "default":
            raise CheckpointError(
                f"llama.rope_parameters.rope_type: {rope_type!r}; the rolling model has 'default' ones"
            )
        shape = LlamaShape.of(config.llama, config.lora.rank)
        if len(set(shape.widths.values())) > 1:
            raise CheckpointError("llama.num_key_value_heads: the prompt-aware gate has one width for q, k, v and o")
        wanted = {name: tuple(value.shape) for name, value in self.speech.state_dict().items()}
        wanted |= {f"gate.{name}": tuple(value.shape) for name, value in prompt_gate.state_dict().items()}
        checkpoint.refuse_misfits(wanted | shape.tensors())
        self.speech.load_state_dict({name: tensors[name] for name in self.speech.state_dict()})
        prompt_gate.load_state_dict({name: tensors[f"gate.{name}"] for name in prompt_gate.state_dict()})
        self.speech.to(device)  # stays in float32: there is no Fourier transform in less
        prompt_gate.to(device, dtype)
        llama = LiveLlama(shape, tensors, config.max_context, device, dtype)
        prompts = RollingPrompts(PromptTemplate(checkpoint.tokenizer, config.system_prompt))
        self.language = Language(
            llama,
            Gates(
                llama,
                prompts.gate_ids,
                lambda states, mask: prompt_gate(states, mask)[0].repeat(len(shape.widths)),
                config.max_context // 2,
            ),
            Planner(prompts, config.max_context),
            checkpoint.tokenizer,
            frozenset({end_id}),
        )

    def reply(self, history: Sequence[Exchange], instruction: str, sampling: Sampling) -> Iterator[str]:
        """See `Language.reply`."""
        return self.language.reply(history, instruction, sampling)
