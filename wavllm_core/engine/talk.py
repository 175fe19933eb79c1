"""One conversation on the worker's side, and one answer in it, as plain records. What is done with them: `talks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from wavllm_core.engine.api import Exchange, Sampling, Written
from wavllm_core.engine.kv import Slot
from wavllm_core.engine.planner import Plan
from wavllm_core.engine.sampling import Chooser, Spelling
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CoreError

FIRST_TOKEN_DUE_S = 0.02
TOKEN_DUE_S = 0.05
TRANSCRIPT_DUE_S = 0.5
SPECULATION_DUE_S = 0.1
LISTENING_DUE_S = 0.3  # vectors of live speech should stand in the slot so soon
HISTORY_DUE_S = 1.0

Kind = Literal["reply", "transcript", "speculation"]
Piece = str | Written | CoreError | None  # Written: of a transcript; None: that was all
DUE_S: dict[Kind, float] = {
    "reply": FIRST_TOKEN_DUE_S,
    "transcript": TRANSCRIPT_DUE_S,
    "speculation": SPECULATION_DUE_S,
}


@dataclass(eq=False)
class Answer:
    """One reply or transcript while it is decoded."""

    kind: Kind
    plan: Plan
    sampling: Sampling
    gate: Tensor
    chooser: Chooser
    spelling: Spelling
    since: float  # when it could have been worked on first, or again
    sink: Callable[[Piece], None] | None = None  # None: held back
    held: list[Piece] = field(default_factory=list)
    tokens: int = 0
    next_token: int | None = None  # to be read next; None: the plan is not read yet
    over: bool = False

    @property
    def due(self) -> float:
        if self.next_token is not None and self.kind == "reply":
            return self.since + TOKEN_DUE_S
        return self.since + DUE_S[self.kind]

    def write(self, text: str, logprob: float, tokens: int = 1) -> None:
        """Hand over or hold the text of so many tokens; of a reply, where there is any."""
        if self.kind == "transcript":
            self.put(Written(text, logprob, tokens))
        elif text:
            self.put(text)

    def put(self, piece: Piece) -> None:
        """Hand a piece over, or hold it."""
        if self.sink:
            self.sink(piece)
        else:
            self.held.append(piece)


@dataclass(eq=False)
class Talk:
    """One conversation."""

    slot: Slot | None = None
    used: float = 0.0  # when last
    instruction: str = ""
    history: Sequence[Exchange] = ()  # what precedes the turn that is being spoken
    wanted: Plan | None = None  # to be read ahead
    wanted_since: float = 0.0
    utterances: list[Hearing] = field(default_factory=list)  # that are listened to
    hearing: Hearing | None = None  # the one of them whose vectors are read ahead
    answers: list[Answer] = field(default_factory=list)  # the first one is decoded, the others wait for it
    tried: int = 0  # speculations on this utterance
    reply_tokens: int = Sampling().max_tokens  # that the reply is expected to be allowed
    passing: bool = False  # a transcript's, gone with it

    @property
    def answer(self) -> Answer | None:
        return self.answers[0] if self.answers else None

    @property
    def pinned(self) -> bool:
        """Whether its slot must stay: there is an answer that somebody waits for."""
        return any(answer.kind != "speculation" for answer in self.answers)
