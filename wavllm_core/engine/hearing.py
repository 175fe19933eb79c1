"""Utterances for the rolling encoders: audio that waits for its block, and the vectors that came of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from wavllm_core.engine.api import Heard
from wavllm_core.engine.encoders import RollingEncoders
from wavllm_core.engine.kv import name_vectors
from wavllm_core.engine.utterances import SILENCE, TAIL_DUE_S, Hearing, Tail, Utterances, Waveform
from wavllm_core.errors import InputError

BLOCK_DUE_S = 0.2  # a block of live speech should be encoded so soon after it is there
MAX_STREAMS_PER_STEP = 16  # so that nobody's first token waits long for the encoders


class Hearings(Utterances):
    """All utterances that roll."""

    def __init__(self, encoders: RollingEncoders, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.encoders, self.config = encoders, encoders.config

    def push(self, hearing: Hearing, waveform: Waveform) -> None:
        """More audio, (samples,); takes back a tail that was not the end, and refuses what is too long."""
        if waveform.ndim != 1 or waveform.dtype != np.float32:
            self._fail(hearing, InputError(f"audio is (samples,) float32, not {waveform.shape} {waveform.dtype}"))
        hearing.pushed += len(waveform)
        if hearing.pushed > self.config.max_audio_seconds * self.config.sample_rate:
            self._fail(hearing, InputError(f"an utterance of more than {self.config.max_audio_seconds:g} s"))
        if hearing.error or hearing not in self.open:
            return
        if hearing.tail and hearing.stream:
            hearing.stream.state, hearing.pending = hearing.tail.before, hearing.tail.waveform
            hearing.parts = [hearing.embeds[: -hearing.tail.vectors]]
            del hearing.names[-hearing.tail.vectors :]
        changed, hearing.tail, hearing.heard = hearing.heard is not None, None, None
        if len(hearing.pending) < self.config.block_samples:
            hearing.since = self.clock()
        hearing.pending = np.concatenate([hearing.pending, waveform])
        if changed and hearing.told:
            hearing.told(hearing)

    def step(self) -> float:
        """Encode the most urgent blocks, one of each utterance; returns since when the first of them waited."""
        ready = self._by_urgency()
        since = ready[0].since
        chosen = []
        for hearing in ready[:MAX_STREAMS_PER_STEP]:
            if not hearing.pending.size:
                self._settle(hearing)
            elif hearing.stream or self.encoders.open_streams < self.encoders.streams:
                hearing.stream = hearing.stream or self.encoders.open()
                chosen.append(hearing)
        if chosen:
            self._together(chosen, self._encode)
        return since

    def _ready(self, hearing: Hearing) -> bool:
        if hearing.asked and not hearing.pending.size:
            return True
        if not hearing.stream and self.encoders.open_streams == self.encoders.streams:
            return False
        return bool(hearing.asked) or len(hearing.pending) >= self.config.block_samples

    def _due(self, hearing: Hearing) -> float:
        return hearing.since + (TAIL_DUE_S if hearing.asked else BLOCK_DUE_S)

    def _encode(self, chosen: list[Hearing]) -> None:
        block_samples = self.config.block_samples
        streams = [hearing.stream for hearing in chosen if hearing.stream]
        states = [stream.state for stream in streams]
        waveforms = [torch.from_numpy(hearing.pending[:block_samples]) for hearing in chosen]
        outs = self.encoders.step(streams, waveforms)
        for hearing, embeds, before in zip(chosen, outs, states, strict=True):
            if len(hearing.pending) < block_samples:
                hearing.tail = Tail(before, hearing.pending, len(embeds))
            hearing.pending = hearing.pending[block_samples:]
            hearing.parts.append(embeds)
            hearing.names += name_vectors(len(embeds))
            hearing.since = self.clock()
            if hearing.told:
                hearing.told(hearing)
            if hearing.asked and not hearing.pending.size:
                self._settle(hearing)

    def _settle(self, hearing: Hearing) -> None:
        """Answer those who ask; all audio is encoded."""
        if hearing.stream is None or not hearing.names:
            self._fail(hearing, InputError("an utterance of 0 samples"))
            return
        vector = self.encoders.speaker_vector(hearing.stream.state).float().cpu().numpy()
        seconds = hearing.pushed / self.config.sample_rate
        hearing.heard = Heard(hearing.embeds, vector, seconds, tuple(hearing.names))
        self._answer(hearing, hearing.heard)

    def _let_go(self, hearing: Hearing) -> None:
        hearing.pending, hearing.tail = SILENCE, None
        if hearing.stream:
            self.encoders.close(hearing.stream)
            hearing.stream = None
