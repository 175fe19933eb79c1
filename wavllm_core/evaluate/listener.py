"""A rolling checkpoint that is asked about one clip at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Heard, Sampling
from wavllm_core.engine.decoder import Decoder
from wavllm_core.train.corpus import Pcm

LEAD_SECONDS, TAIL_SECONDS = 0.3, 0.2  # silence around a clip, as the server's turn detection leaves it
MAX_TOKENS = 96  # of an answer


class Listener:
    """A checkpoint that is asked about one clip at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.decoder = Decoder(checkpoint)

    @torch.inference_mode()
    def hear(self, pcm: Pcm) -> Heard:
        """Encode a clip with silence around it."""
        lead, tail = int(LEAD_SECONDS * SAMPLE_RATE), int(TAIL_SECONDS * SAMPLE_RATE)
        waveform = np.pad(pcm.astype(np.float32) / 32768, (lead, tail))
        encoded = self.decoder.speech.encode(torch.from_numpy(waveform)[None])
        vector = self.decoder.speech.speaker_head.vector(encoded.pool)[0].numpy()
        return Heard(encoded.speech_embeds[0], vector, len(waveform) / SAMPLE_RATE)

    @torch.inference_mode()
    def voice(self, pcm: Pcm) -> npt.NDArray[np.float32]:
        """The speaker vector of a clip alone."""
        waveform = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
        return np.asarray(self.decoder.speech.voice(waveform)[0].numpy())

    def ask(
        self,
        heard: Heard,
        instruction: str = "",
        history: tuple[Exchange, ...] = (),
        max_tokens: int = MAX_TOKENS,
    ) -> str:
        """The whole answer, chosen greedily."""
        exchanges = [*history, Exchange(heard=heard)]
        return "".join(self.decoder.reply(exchanges, instruction, Sampling(max_tokens=max_tokens))).strip()

    def gate(self, instruction: str) -> float:
        """How far LoRA is turned up for an instruction: the mean over its channels."""
        return float(self.decoder.language.gates.of(instruction).mean())
