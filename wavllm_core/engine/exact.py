"""Utterances for stock encoders, which cannot roll: the same handles and the same promises as `hearing.Hearings`.

The open turn is encoded anew from time to time, and what lies far enough from its end is committed, so that the
language model can read it while the person speaks. The end is encoded exactly, as the whole utterance alone; when
others wait, what was committed stays instead, and only the rest is new to the language model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavllm_core.engine.api import SAMPLE_RATE, Heard
from wavllm_core.engine.kv import name_vectors
from wavllm_core.engine.utterances import TAIL_DUE_S, Hearing, Utterances, Waveform
from wavllm_core.errors import InputError
from wavllm_core.hf.live import LiveStockEncoders, OpenTurn

Voice = Callable[[Tensor], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ExactLimits:
    """How often an open turn is encoded, and with whom."""

    hop_s: float = 0.5  # of new audio, before a turn is encoded again
    busy_hop_s: float = 2.0  # the same while others wait
    busy_wait_ms: float = 40.0  # from such a queue wait on the machine is busy
    turns_per_step: int = 8


class ExactHearings(Utterances):
    """All utterances that stock encoders listen to."""

    def __init__(
        self,
        encoders: LiveStockEncoders,
        voice: Voice,
        clock: Callable[[], float],
        queue_wait_ms: Callable[[], float],
        limits: ExactLimits | None = None,
    ) -> None:
        """`voice` tells who spoke, from a whole waveform, (samples,), as a vector of length 1."""
        super().__init__(clock)
        self.encoders, self.voice = encoders, voice
        self.queue_wait_ms, self.limits = queue_wait_ms, limits or ExactLimits()
        self._turns: dict[Hearing, OpenTurn] = {}
        self._encoded: dict[Hearing, int] = {}  # samples at the last hop
        self._committed: dict[Hearing, list[int]] = {}  # names of the vectors that hops committed

    @property
    def busy(self) -> bool:
        """Whether others wait, so that exactness has to."""
        return self.queue_wait_ms() > self.limits.busy_wait_ms

    def push(self, hearing: Hearing, waveform: Waveform) -> None:
        """More audio, (samples,); what was taken for the end is taken back."""
        hearing.pushed += len(waveform)
        if hearing.error or hearing not in self.open:
            return
        turn = self._turns.setdefault(hearing, OpenTurn())
        try:
            if waveform.ndim != 1 or waveform.dtype != np.float32:
                raise InputError(f"audio is (samples,) float32, not {waveform.shape} {waveform.dtype}")
            self.encoders.push(turn, torch.from_numpy(waveform))
        except InputError as error:
            self._fail(hearing, error)
            return
        if not self._hop_is_due(hearing, less=len(waveform)):
            hearing.since = self.clock()
        if hearing.heard:
            hearing.heard = None
            self._show(hearing, turn.committed, self._committed.get(hearing, []))

    def step(self) -> float:
        """Encode the most urgent turns, ends first; returns since when the first of them waited."""
        ready = self._by_urgency()
        ends = [hearing for hearing in ready if hearing.asked]
        chosen = (ends or ready)[: self.limits.turns_per_step]
        self._together(chosen, self._finish if ends else self._hop)
        return ready[0].since

    def _ready(self, hearing: Hearing) -> bool:
        return bool(hearing.asked) or self._hop_is_due(hearing)

    def _due(self, hearing: Hearing) -> float:
        return hearing.since + (TAIL_DUE_S if hearing.asked else self.limits.hop_s)

    def _hop_is_due(self, hearing: Hearing, less: int = 0) -> bool:
        turn = self._turns.get(hearing)
        hop_s = self.limits.busy_hop_s if self.busy else self.limits.hop_s
        new = turn.samples - less - self._encoded.get(hearing, 0) if turn else 0
        return new >= hop_s * SAMPLE_RATE

    def _hop(self, chosen: list[Hearing]) -> None:
        turns = [self._turns[hearing] for hearing in chosen]
        self.encoders.hop(turns)
        for hearing, turn in zip(chosen, turns, strict=True):
            self._encoded[hearing] = turn.samples
            names = self._committed.setdefault(hearing, [])
            count = 0 if turn.committed is None else len(turn.committed)
            if count > len(names):
                names += name_vectors(count - len(names))
                self._show(hearing, turn.committed, names)

    def _finish(self, chosen: list[Hearing]) -> None:
        exact = not self.busy
        turns = [self._turns.setdefault(hearing, OpenTurn()) for hearing in chosen]
        for hearing, turn, embeds in zip(chosen, turns, self.encoders.finish(turns, exact), strict=True):
            kept = [] if exact else self._committed.get(hearing, [])
            self._show(hearing, embeds, [*kept, *name_vectors(len(embeds) - len(kept))])
            seconds = hearing.pushed / SAMPLE_RATE
            hearing.heard = Heard(embeds, self.voice(turn.waveform), seconds, tuple(hearing.names))
            self._answer(hearing, hearing.heard)

    def _show(self, hearing: Hearing, embeds: Tensor | None, names: list[int]) -> None:
        """These are the vectors now."""
        hearing.parts, hearing.names = [] if embeds is None else [embeds], list(names)
        if hearing.told:
            hearing.told(hearing)

    def _let_go(self, hearing: Hearing) -> None:
        for kept in (self._turns, self._encoded, self._committed):
            kept.pop(hearing, None)
