"""What utterances are to the worker, whichever encoders listen: who is asked about, when work is due, who fails.

Synchronous, one thread. Knows nothing of conversations but a function that it tells of new vectors.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavllm_core.engine.api import Heard
from wavllm_core.engine.encoders import Stream, StreamState
from wavllm_core.errors import CoreError, InputError

log = logging.getLogger(__name__)
TAIL_DUE_S = 0.02  # the end of an utterance, for which a reply waits

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


class Utterances(ABC):
    """All utterances that are listened to, and what does not depend on the encoders."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.open: list[Hearing] = []

    @abstractmethod
    def push(self, hearing: Hearing, waveform: Waveform) -> None:
        """More audio, (samples,); what was taken for the end is taken back, and what is too long refused."""

    def ask(self, hearing: Hearing, answer: Callable[[Heard | CoreError], None]) -> None:
        """Have `answer` called with what was heard up to the last sample, as soon as all of it is encoded."""
        if hearing.heard:
            answer(hearing.heard)
        elif hearing not in self.open:
            answer(InputError("the utterance was cancelled"))
        elif hearing.error:
            answer(hearing.error)
        else:
            if not self._ready(hearing):
                hearing.since = self.clock()
            hearing.asked.append(answer)

    def close(self, hearing: Hearing) -> None:
        """Forget an utterance; harmless when it is forgotten already."""
        if hearing in self.open:
            self._fail(hearing, InputError("the utterance was cancelled"))
            self.open.remove(hearing)

    def due(self) -> float | None:
        """When the most urgent work is due; None: there is none."""
        return min((self._due(hearing) for hearing in self.open if self._ready(hearing)), default=None)

    @abstractmethod
    def step(self) -> float:
        """Do it; returns since when it waited."""

    @abstractmethod
    def _ready(self, hearing: Hearing) -> bool:
        """Whether there is work."""

    @abstractmethod
    def _due(self, hearing: Hearing) -> float:
        """When it is due."""

    @abstractmethod
    def _let_go(self, hearing: Hearing) -> None:
        """Free whatever the encoders hold of an utterance."""

    def _by_urgency(self) -> list[Hearing]:
        return sorted((hearing for hearing in self.open if self._ready(hearing)), key=self._due)

    def _together(self, chosen: list[Hearing], work: Callable[[list[Hearing]], None]) -> None:
        """Work on all of them in one go; when that fails one is at fault, and the others go on."""
        try:
            work(chosen)
        except (CoreError, RuntimeError, ValueError) as error:
            if len(chosen) > 1:
                for hearing in chosen:
                    self._together([hearing], work)
            elif isinstance(error, CoreError):
                self._fail(chosen[0], error)
            else:
                log.exception("an utterance failed")
                self._fail(chosen[0], CoreError(f"encoding failed: {error}"))

    def _answer(self, hearing: Hearing, outcome: Heard | CoreError) -> None:
        answers, hearing.asked = hearing.asked, []
        for answer in answers:
            answer(outcome)

    def _fail(self, hearing: Hearing, error: CoreError) -> None:
        """Keep nothing but the reason, the first one."""
        hearing.error = hearing.error or error
        hearing.parts, hearing.names, hearing.heard = [], [], None
        self._let_go(hearing)
        self._answer(hearing, hearing.error)
