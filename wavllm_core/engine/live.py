"""One model for many conversations: a worker thread does all tensor work, event loops hold handles and futures.

A handle tells the worker what to do and returns at once; the worker takes in all that was told between two
steps. Nothing here computes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from wavllm_core.checkpoint import NANO, is_hugging_face, load
from wavllm_core.engine.api import Exchange, Heard, PromptUsage, Sampling, Written
from wavllm_core.engine.core import Core, EngineLimits, OpenModel, rolling
from wavllm_core.engine.load import Load
from wavllm_core.engine.talk import Answer, Kind, Talk
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CapacityError, CoreError
from wavllm_core.prompt import TRANSCRIBE

T = TypeVar("T")
TRANSCRIPT_TOKENS = 96


class LiveEngine:
    """See `api.Engine`. One per process; `close` ends its thread."""

    def __init__(self, model: OpenModel, limits: EngineLimits | None = None) -> None:
        """Raises CheckpointError, and CoreError for limits that cannot be kept."""
        self.core = Core(model, limits or EngineLimits(), time.perf_counter)
        self._conversations = 0
        self._told: deque[Callable[[], None]] = deque()
        self._outlets: set[Outlet[Any]] = set()  # of what is under way
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, folder: Path | None = None, limits: EngineLimits | None = None) -> LiveEngine:
        """An engine for a folder of either form, or for the shipped nano model. Raises CheckpointError."""
        if folder is None or not is_hugging_face(folder):
            return cls(rolling(load(folder or NANO)), limits)
        from wavllm_core.engine.stock import load_stock  # brings transformers, which takes seconds

        return cls(load_stock(folder), limits)

    def open_context(self) -> LiveContext:
        """Begin a conversation. Raises CapacityError when there are as many as there may be."""
        most = self.core.limits.conversations
        if self._conversations >= most:
            raise CapacityError(f"the engine holds {most} conversations; more are not possible")
        self._conversations += 1
        return LiveContext(self, self._forget)

    async def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        """What was said, in the style of the model's transcription task."""
        talk, begun = Talk(passing=True), False
        self.tell(lambda: self.core.talks.open.append(talk))
        sampling = Sampling(max_tokens=TRANSCRIPT_TOKENS)
        try:
            async with aclosing(
                self.answer(talk, "transcript", TRANSCRIBE, [Exchange(heard=heard)], sampling)
            ) as pieces:
                async for piece in pieces:
                    text = piece.text if begun else piece.text.lstrip()  # every word of a transcript brings its space
                    begun = begun or bool(text)
                    yield replace(piece, text=text)
        finally:
            self.tell(lambda: self.core.close(talk))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, none added."""
        return len(self.core.language.planner.prompts.encode(text))

    async def load_figures(self) -> Load:
        """How busy it is, read between two steps. Raises CoreError when the engine is closed."""
        with self.outlet() as outlet:
            self.tell(lambda: outlet.put(self.core.load()))
            return await outlet.get()

    async def close(self) -> None:
        """End the thread; whatever was under way fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def tell(self, work: Callable[[], None]) -> None:
        """Have the worker do something small between two steps; a closed engine has nothing left to do."""
        with self._changed:
            if not self._closed:
                self._told.append(work)
                self._changed.notify()

    @contextmanager
    def outlet(self) -> Iterator[Outlet[Any]]:
        """For what the worker has to say to this event loop. Raises CoreError when the engine is closed."""
        outlet: Outlet[Any] = Outlet()
        with self._changed:
            if self._closed:
                raise _closed()
            self._outlets.add(outlet)
        try:
            yield outlet
        finally:
            with self._changed:
                self._outlets.discard(outlet)

    async def answer(
        self,
        talk: Talk,
        kind: Kind,
        instruction: str,
        history: Sequence[Exchange],
        sampling: Sampling,
        begun: Callable[[PromptUsage], None] = lambda _: None,
    ) -> AsyncGenerator[Any, None]:
        """The pieces of a reply, as text, or of a transcript, as `Written`; closing the generator stops the work.

        begun: is told by the worker
        """
        talks, asked = self.core.talks, list(history)
        with self.outlet() as outlet:
            answers: list[Answer | None] = []
            self.tell(lambda: answers.append(talks.ask(talk, kind, instruction, asked, sampling, outlet.put, begun)))
            try:
                while (piece := await outlet.get()) is not None:
                    yield piece
            finally:
                self.tell(lambda: talks.drop(talk, answers[0]))

    def _forget(self) -> None:
        self._conversations -= 1

    def _work(self) -> None:
        torch.set_num_threads(self.core.limits.threads)
        try:
            while True:
                with self._changed:
                    if self._closed:
                        break
                    told, self._told = self._told, deque()
                while told:
                    told.popleft()()  # and nothing keeps what it was about
                if not self.core.advance():
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or self._told)
        finally:
            with self._changed:
                self._closed = True  # even where a fault of our own has ended it
                for outlet in self._outlets:
                    outlet.put(_closed())


class LiveContext:
    """See `api.Context`. Made by `LiveEngine.open_context`."""

    def __init__(self, engine: LiveEngine, forget: Callable[[], None]) -> None:
        self._engine, self._talks, self._forget = engine, engine.core.talks, forget
        self._talk = Talk()
        self._open = True
        self._usage: PromptUsage | None = None
        engine.tell(lambda: self._talks.open.append(self._talk))

    def open_utterance(self) -> LiveUtterance:
        """Begin to listen."""
        return LiveUtterance(self._engine, self._talk)

    def prepare(self, instructions: str, history: Sequence[Exchange]) -> None:
        """Tell what precedes the next turn."""
        past = list(history)
        self._engine.tell(lambda: self._talks.prepare(self._talk, instructions, past))

    def speculate(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> None:
        """Begin the reply that is probably going to be asked for."""
        asked = list(history)
        self._engine.tell(lambda: self._talks.speculate(self._talk, instructions, asked, sampling))

    def reply(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> AsyncGenerator[str, None]:
        """The answer to the last exchange."""
        self._usage = None
        return self._engine.answer(self._talk, "reply", instructions, history, sampling, self._note)

    def prompt_usage(self) -> PromptUsage | None:
        """Of the reply that began last."""
        return self._usage

    def _note(self, usage: PromptUsage) -> None:
        self._usage = usage

    def close(self) -> None:
        """Forget it all; harmless when done before."""
        if self._open:
            self._open = False
            self._forget()
            self._engine.tell(lambda: self._engine.core.close(self._talk))


class LiveUtterance:
    """See `api.Utterance`. Made by `LiveContext.open_utterance`."""

    def __init__(self, engine: LiveEngine, talk: Talk) -> None:
        self._engine, self._talk = engine, talk
        self._hearing = hearing = Hearing(lambda hearing: engine.core.talks.hear(talk, hearing))
        engine.tell(lambda: engine.core.listen(talk, hearing))

    def push(self, waveform: npt.NDArray[np.float32]) -> None:
        """Queue audio for the encoders; past the limit nothing is kept, and `hear` says so."""
        self._engine.tell(lambda: self._engine.core.hearings.push(self._hearing, waveform))

    async def hear(self) -> Heard:
        """Encode what remains, behind all that was pushed."""
        with self._engine.outlet() as outlet:
            self._engine.tell(lambda: self._engine.core.hearings.ask(self._hearing, outlet.put))
            heard: Heard = await outlet.get()
            return heard

    def cancel(self) -> None:
        """Let everything go."""
        self._engine.tell(lambda: self._engine.core.unlisten(self._talk, self._hearing))


class Outlet(Generic[T]):
    """From the worker to one event loop; bounded by what was asked for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T | CoreError] = asyncio.Queue()

    def put(self, item: T | CoreError) -> None:
        """From any thread; a loop that is gone wants nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> T:
        """The next item. Raises CoreError where that is one."""
        item = await self._queue.get()
        if isinstance(item, CoreError):
            raise item
        return item


def _closed() -> CoreError:
    return CoreError("the engine is closed")
