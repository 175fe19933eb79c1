"""The rolling WavLLM whole, for training: the speech encoder and a causal language model with gated LoRA.

A server decodes with `engine/llama.py`, which does the same with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from wavllm_core.config import RollingConfig
from wavllm_core.gate import PromptGate
from wavllm_core.lora import add_lora
from wavllm_core.speech import SpeechEncoder


class RollingWavLLM(SpeechEncoder):
    """The speech encoder, with the language model that its vectors are for."""

    def __init__(self, config: RollingConfig) -> None:
        super().__init__(config)
        llama = LlamaConfig(**config.llama)
        self.llm = add_lora(LlamaForCausalLM(llama), config.lora)
        self.gate = PromptGate(llama.hidden_size, config.lora)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token embeddings of the language model, (..., tokens) -> (..., tokens, dim)."""
        return self.llm.get_input_embeddings()(token_ids)

    def gate_for(self, instructions: Sequence[Sequence[int]]) -> Tensor:
        """The gate of each instruction, given as token ids, (batch, llm dim).

        Reads the base model's states before its last norm, with LoRA off.
        """
        longest = max(map(len, instructions))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in instructions])
        mask = torch.arange(longest) < torch.tensor([[len(row)] for row in instructions])
        ids, mask = ids.to(self.projection.weight.device), mask.to(self.projection.weight.device)
        llama = self.llm.get_base_model().model
        states: list[Tensor] = []
        hook = llama.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        try:
            with self.llm.disable_adapter():
                llama(ids, use_cache=False)
        finally:
            hook.remove()
        return self.gate(states[0], mask)
