"""Utterances on the worker's side: audio that waits for the encoders, and the vectors that came of it.

Synchronous, one thread. Knows nothing of conversations but a function that it tells of new vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavllm_core.engine.api import Heard
from wavllm_core.engine.encoders import RollingEncoders, Stream, StreamState
from wavllm_core.engine.kv import name_vectors
from wavllm_core.errors import CoreError, InputError

log = logging.getLogger(__name__)
BLOCK_DUE_S = 0.2  # a block of live speech should be encoded so soon after it is there
TAIL_DUE_S = 0.02  # the end of an utterance, for which a reply waits
MAX_STREAMS_PER_STEP = 16  # so that nobody's first token waits long for the encoders

Waveform = npt.NDArray[np.float32]
SILENCE: Waveform = np.empty(0, np.float32)


@dataclass(eq=False)
class Hearing:
    """One utterance."""

    told: Callable[[Hearing], None] | None = None  # called when its vectors change
    pending: Waveform = field(default_factory=lambda: SILENCE)  # not encoded yet
    pushed: int = 0  # samples, those past the limit included
    parts: list[Tensor] = field(default_factory=list)  # (vectors, dim) each
    names: list[int] = field(default_factory=list)  # of all vectors
    stream: Stream | None = None
    since: float = 0.0  # when there was work last that had not been there
    asked: list[Callable[[Heard | CoreError], None]] = field(default_factory=list)
    tail: Tail | None = None  # encoded as the end, which more audio takes back
    heard: Heard | None = None  # as long as no more audio comes
    error: CoreError | None = None

    @property
    def embeds(self) -> Tensor:
        """All vectors so far, (vectors, dim); there must be one."""
        if len(self.parts) > 1:
            self.parts = [torch.cat(self.parts)]
        return self.parts[0]


@dataclass(frozen=True, eq=False)
class Tail:
    """The end of an utterance that was less than a block."""

    before: StreamState
    waveform: Waveform
    vectors: int


class Hearings:
    """All utterances that are listened to."""

    def __init__(self, encoders: RollingEncoders, clock: Callable[[], float]) -> None:
        self.encoders, self.clock, self.config = encoders, clock, encoders.config
        self.open: list[Hearing] = []

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

    def ask(self, hearing: Hearing, answer: Callable[[Heard | CoreError], None]) -> None:
        """Have `answer` called with what was heard, tail included, as soon as all of it is encoded."""
        if hearing.heard:
            answer(hearing.heard)
        elif hearing not in self.open:
            answer(InputError("the utterance was cancelled"))
        else:
            hearing.asked.append(answer)
            if len(hearing.pending) < self.config.block_samples:
                hearing.since = self.clock()

    def close(self, hearing: Hearing) -> None:
        """Forget an utterance; harmless when it is forgotten already."""
        if hearing in self.open:
            self._fail(hearing, InputError("the utterance was cancelled"))
            self.open.remove(hearing)

    def due(self) -> float | None:
        """When the most urgent work is due; None: there is none."""
        return min((self._due(hearing) for hearing in self.open if self._ready(hearing)), default=None)

    def step(self) -> float:
        """Encode the most urgent blocks, one of each utterance; returns since when the first of them waited."""
        ready = sorted((hearing for hearing in self.open if self._ready(hearing)), key=self._due)
        since = ready[0].since
        chosen = []
        for hearing in ready[:MAX_STREAMS_PER_STEP]:
            if not hearing.pending.size:
                self._settle(hearing)
            elif hearing.stream or self.encoders.open_streams < self.encoders.streams:
                hearing.stream = hearing.stream or self.encoders.open()
                chosen.append(hearing)
        if chosen:
            self._encode_or_fail(chosen)
        return since

    def _ready(self, hearing: Hearing) -> bool:
        if hearing.asked and not hearing.pending.size:
            return True
        if not hearing.stream and self.encoders.open_streams == self.encoders.streams:
            return False
        return bool(hearing.asked) or len(hearing.pending) >= self.config.block_samples

    def _due(self, hearing: Hearing) -> float:
        return hearing.since + (TAIL_DUE_S if hearing.asked else BLOCK_DUE_S)

    def _encode_or_fail(self, chosen: list[Hearing]) -> None:
        try:
            self._encode(chosen)
        except (RuntimeError, ValueError) as error:  # torch: one is at fault, and the others go on
            if len(chosen) > 1:
                for hearing in chosen:
                    self._encode_or_fail([hearing])
            else:
                log.exception("an utterance failed")
                self._fail(chosen[0], CoreError(f"encoding failed: {error}"))

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
        if hearing.error is None and (hearing.stream is None or not hearing.names):
            hearing.error = InputError("an utterance of 0 samples")
        if hearing.error is None and hearing.stream is not None:
            vector = self.encoders.speaker_vector(hearing.stream.state).float().cpu().numpy()
            seconds = hearing.pushed / self.config.sample_rate
            hearing.heard = Heard(hearing.embeds, vector, seconds, tuple(hearing.names))
        answers, hearing.asked = hearing.asked, []
        for answer in answers:
            answer(hearing.heard or hearing.error or CoreError("nothing was heard"))

    def _fail(self, hearing: Hearing, error: CoreError) -> None:
        """Let go of everything but the reason."""
        hearing.error = hearing.error or error
        hearing.pending, hearing.parts, hearing.names = SILENCE, [], []
        hearing.tail = hearing.heard = None
        if hearing.stream:
            self.encoders.close(hearing.stream)
            hearing.stream = None
        self._settle(hearing)
