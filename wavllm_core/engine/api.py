"""What a live model offers to whoever holds conversations.

Owns the vocabulary between `agent` and the model: what was heard, what is in the conversation, how a
reply is asked for. Knows no tensor library, so that the agent can be tested with a scripted model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wavllm_core.engine.load import Load

SAMPLE_RATE = 16_000


@dataclass(frozen=True, eq=False)
class Heard:
    """One finished utterance, as the encoders left it."""

    speech_embeds: Any  # opaque to the agent; the engine that made it reads it back
    speaker_vector: npt.NDArray[np.float32]  # (dim,), length 1: who spoke
    seconds: float  # of audio given to the encoders
    vector_names: tuple[int, ...] = ()  # by which the engine knows the vectors again; none: it names them


@dataclass(frozen=True)
class Exchange:
    """One user turn and what was answered to it, if anything."""

    text: str = ""  # what the user typed, or the transcript of what was said
    heard: Heard | None = None  # what was said; read for the turn that is to be answered
    speaker: int | None = None  # 1 for the first voice of the conversation; None: unknown or typed
    reply: str | None = None  # None: not answered


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int = 64
    temperature: float = 0.0  # 0: the most likely token always
    seed: int = 0
    top_p: float = 1.0  # tokens are drawn from the likeliest that have this share together
    stop: tuple[str, ...] = ()  # the reply ends before any of these
    begins: str = ""  # words put into the model's mouth, behind which it goes on; they are not given back


@dataclass(frozen=True)
class Written:
    """A piece of a transcript, and how sure the model was of it."""

    text: str  # may be empty: of half a character, and of the end
    logprob: float = 0.0  # natural logarithm of the probability of its tokens, together
    tokens: int = 1


@dataclass(frozen=True)
class PromptUsage:
    """What a reply was made from."""

    tokens: int  # of the whole prompt, vectors of audio included
    cached_tokens: int  # of them that were in the store when it was asked for


class Utterance(Protocol):
    """An utterance while it is spoken: its encoder states roll along with the audio."""

    def push(self, waveform: npt.NDArray[np.float32]) -> None:
        """Hand over audio, (samples,) at 16 kHz in [-1, 1]; returns at once. May follow `hear`."""

    async def hear(self) -> Heard:
        """What was said so far, to the last sample; the same object again when nothing was pushed since.

        Raises CoreError when the encoders failed or there was nothing.
        """

    def cancel(self) -> None:
        """Forget the utterance; its state is freed, what was heard stays. Harmless when done before."""


class Context(Protocol):
    """What the engine remembers of one conversation; everything but `close` may be called at any time."""

    def open_utterance(self) -> Utterance:
        """Begin to listen; the model reads what is heard behind what `prepare` told, while it is spoken."""

    def prepare(self, instructions: str, history: Sequence[Exchange]) -> None:
        """Tell what precedes the next turn, so that it is read in idle time. No answer changes by it."""

    def speculate(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> None:
        """Begin the reply that is probably going to be asked for, and hold it; `reply` uses it if it is the same."""

    def reply(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> AsyncGenerator[str, None]:
        """Answer the last exchange of `history`, piece by piece; closing the generator stops the work.

        Oldest exchanges are dropped whole when the context is full.
        Raises CoreError when the last exchange alone does not fit.
        """

    def prompt_usage(self) -> PromptUsage | None:
        """Of the reply that began last; None while there is none."""

    def close(self) -> None:
        """Forget the conversation and stop what it waits for."""


class Engine(Protocol):
    """One model, shared by all conversations; every method may be called from one event loop."""

    def open_context(self) -> Context:
        """Begin a conversation. Raises CapacityError when there is no room for one more."""

    def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        """What was said, piece by piece, the end as a last one; closing the generator stops the work."""

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` has, for usage figures."""

    async def load_figures(self) -> Load:
        """How busy it is. Raises CoreError when it works no more."""

    async def close(self) -> None:
        """End the worker; whatever was under way raises CoreError."""
