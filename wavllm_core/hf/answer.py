"""Answers from a folder in Hugging Face form, one waveform and one instruction at a time."""

from __future__ import annotations

from pathlib import Path

import torch

from wavllm_core.audio import SAMPLE_RATE, Waveform
from wavllm_core.errors import CheckpointError
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.parts import loaded
from wavllm_core.hf.processor import WavLLMProcessor


class PublishedAnswerer:
    """A converted or trained WavLLM that answers greedily; see `evaluate.answerer.Answerer`."""

    def __init__(self, folder: Path, max_new_tokens: int | None = None) -> None:
        """Raises CheckpointError for a folder without a model or processor, or with weights that are no numbers."""
        if not (folder / "processor_config.json").is_file():
            raise CheckpointError(f"{folder}: no processor_config.json: convert with --tokenizer to get one")
        self.model = loaded("model", folder, WavLLMForConditionalGeneration).eval()
        self.processor = loaded("processor", folder, WavLLMProcessor)
        self.max_new_tokens = max_new_tokens
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise CheckpointError(f"{folder}: {name}: not finite")

    def answer(self, waveform: Waveform | None, instruction: str) -> str:
        """The whole answer. Raises InputError for audio or text outside of the model's limits."""
        inputs = self.processor(text=instruction, audio=waveform, sampling_rate=SAMPLE_RATE)
        inputs = inputs.to(self.model.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        return str(self.processor.decode(ids[0]))
