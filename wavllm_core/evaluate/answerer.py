"""One model that is asked about one item of a list at a time, whatever kind of checkpoint it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from wavllm_core.audio import SAMPLE_RATE, Waveform
from wavllm_core.checkpoint import NANO, Checkpoint, is_hugging_face, load
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.errors import InputError
from wavllm_core.evaluate.listener import MAX_TOKENS, Listener


class Answerer(Protocol):
    """Whatever answers an instruction about a sound."""

    def answer(self, waveform: Waveform | None, instruction: str) -> str:
        """The whole answer.

        waveform: (samples,) mono at 16 kHz in [-1, 1]; None: the instruction is all there is
        Raises InputError for audio or text outside the model's limits.
        """


class NanoAnswerer:
    """A rolling checkpoint, such as the shipped one: audio makes a spoken turn, an instruction alone a typed one."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.listener = Listener(checkpoint)
        self.max_seconds = checkpoint.config.max_audio_seconds

    def answer(self, waveform: Waveform | None, instruction: str) -> str:
        """See Answerer; always the most likely tokens."""
        if waveform is None:
            typed = [Exchange(instruction)]
            return "".join(self.listener.decoder.reply(typed, "", Sampling(max_tokens=MAX_TOKENS))).strip()
        seconds = len(waveform) / SAMPLE_RATE
        if not 0 < seconds <= self.max_seconds:
            raise InputError(f"{seconds:.1f} s of audio; more than 0 and at most {self.max_seconds:g} s are possible")
        pcm = np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)
        return self.listener.ask(self.listener.hear(pcm), instruction)


def load_answerer(folder: Path | None) -> Answerer:
    """The model in a folder, rolling or in Hugging Face form, or the shipped one. Raises CheckpointError as they do."""
    if folder is None or not is_hugging_face(folder):
        return NanoAnswerer(load(folder or NANO))
    from wavllm_core.hf.answer import PublishedAnswerer  # brings transformers, which takes seconds

    return PublishedAnswerer(folder)
