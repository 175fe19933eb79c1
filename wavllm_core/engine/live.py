"""One model for many conversations: a worker thread does all tensor work, one small step after another.

Encoder blocks of live speech go first, so that audio never waits for text; decoding replies take turns.
The asyncio side holds queues and futures only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavllm_core.checkpoint import NANO, Checkpoint, load
from wavllm_core.engine.api import SAMPLE_RATE, Exchange, Heard, Sampling
from wavllm_core.engine.decoder import Decoder
from wavllm_core.errors import CoreError, InputError
from wavllm_core.prompt import TRANSCRIBE

log = logging.getLogger(__name__)
TRANSCRIPT_TOKENS = 96


class LiveUtterance:
    """Speech as it comes in; see `api.Utterance`. Made by `LiveEngine.open_utterance`."""

    def __init__(self, engine: LiveEngine) -> None:
        self._engine = engine
        self._model = engine.decoder.speech
        self._state = self._model.init_state()
        self._embeds: list[Tensor] = []
        self._max_samples = int(self._model.config.max_audio_seconds * SAMPLE_RATE)
        self._pushed = 0  # samples, those past the limit included
        self._error: CoreError | None = None
        self._over = False
        self._cancelled = False

    def push(self, waveform: npt.NDArray[np.float32]) -> None:
        """Queue audio for the encoders; past the limit nothing is kept, and `finish` says so."""
        self._pushed += len(waveform)
        if not self._over and self._pushed <= self._max_samples:
            self._engine.encode_soon(lambda: self._step(waveform))

    async def finish(self) -> Heard:
        """Encode what remains, behind all that was pushed."""
        self._over = True
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Heard] = loop.create_future()
        self._engine.encode_soon(lambda: settle(loop, done, self._flush), lambda error: fail(loop, done, error))
        return await done

    def cancel(self) -> None:
        """Let everything go; queued steps find nothing to do."""
        self._over = self._cancelled = True
        self._embeds = []

    def _step(self, waveform: npt.NDArray[np.float32]) -> None:
        if self._cancelled:
            return
        try:
            self._state, encoded = self._model.step(self._state, torch.from_numpy(waveform)[None])
        except (RuntimeError, ValueError) as error:  # torch: this utterance fails, the others go on
            log.exception("an utterance failed")
            self._error = CoreError(f"encoding failed: {error}")
            return
        if encoded is not None:
            self._embeds.append(encoded.speech_embeds[0])

    def _flush(self) -> Heard:
        if self._cancelled:
            raise InputError("the utterance was cancelled")
        if self._error:
            raise self._error
        if self._pushed > self._max_samples:
            raise InputError(f"an utterance of more than {self._max_samples / SAMPLE_RATE:g} s")
        self._state, encoded = self._model.flush(self._state)
        if encoded is not None:
            self._embeds.append(encoded.speech_embeds[0])
        if not self._embeds:
            raise InputError("an utterance of 0 samples")
        vector = self._model.speaker_head.vector(self._state.pool)[0].numpy()
        return Heard(torch.cat(self._embeds), vector, self._pushed / SAMPLE_RATE)


class LiveEngine:
    """See `api.Engine`. One per process; `close` ends its thread."""

    def __init__(self, checkpoint: Checkpoint, threads: int = 2) -> None:
        self.decoder = Decoder(checkpoint)
        self._encoding: deque[tuple[Callable[[], None], Callable[[CoreError], None] | None]] = deque()
        self._decoding: deque[_Reply] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, args=(threads,), name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, folder: Path | None = None, threads: int = 2) -> LiveEngine:
        """An engine for a checkpoint, the shipped nano model if none is named. Raises CheckpointError."""
        return cls(load(folder or NANO), threads)

    def open_utterance(self) -> LiveUtterance:
        """Begin to listen."""
        return LiveUtterance(self)

    async def transcribe(self, heard: Heard) -> AsyncGenerator[str, None]:
        """What was said, in the style of the model's transcription task."""
        sampling = Sampling(max_tokens=TRANSCRIPT_TOKENS)
        begun = False
        async with aclosing(self._stream([Exchange(heard=heard)], TRANSCRIBE, sampling)) as pieces:
            async for piece in pieces:
                if text := piece if begun else piece.lstrip():  # every word of a transcript brings its space
                    begun = True
                    yield text

    def reply(self, instructions: str, history: Sequence[Exchange], sampling: Sampling) -> AsyncGenerator[str, None]:
        """The answer to the last exchange."""
        return self._stream(list(history), instructions, sampling)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, none added."""
        return len(self.decoder.template.encode(text))

    async def close(self) -> None:
        """End the thread; whatever was under way fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def encode_soon(self, work: Callable[[], None], on_close: Callable[[CoreError], None] | None = None) -> None:
        """Queue a step for the worker; `on_close` is called instead if the engine ends first."""
        with self._changed:
            if not self._closed:
                self._encoding.append((work, on_close))
                self._changed.notify()
                return
        if on_close:
            on_close(CoreError("the engine is closed"))

    async def _stream(self, history: list[Exchange], instruction: str, sampling: Sampling) -> AsyncGenerator[str, None]:
        reply = _Reply(self.decoder, history, instruction, sampling)
        with self._changed:
            if self._closed:
                raise CoreError("the engine is closed")
            self._decoding.append(reply)
            self._changed.notify()
        try:
            while (piece := await reply.pieces.get()) is not None:
                if isinstance(piece, CoreError):
                    raise piece
                yield piece
        finally:
            reply.wanted = False

    def _work(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._encoding or self._decoding)
                if self._closed:
                    break
                encode = self._encoding.popleft() if self._encoding else None
                reply = None if encode else self._decoding.popleft()
            if encode:
                with torch.inference_mode():
                    encode[0]()
            elif reply and reply.advance():
                with self._changed:
                    self._decoding.append(reply)
        closed = CoreError("the engine is closed")
        for _, on_close in self._encoding:
            if on_close:
                on_close(closed)
        for reply in self._decoding:
            reply.put(closed)


class _Reply:
    """One reply while it is decoded; lives on the worker, hands pieces to its event loop."""

    def __init__(self, decoder: Decoder, history: list[Exchange], instruction: str, sampling: Sampling) -> None:
        self.wanted = True
        self.pieces: asyncio.Queue[str | CoreError | None] = asyncio.Queue()  # bounded by max_tokens
        self._loop = asyncio.get_running_loop()
        self._steps = decoder.reply(history, instruction, sampling)

    def advance(self) -> bool:
        """One step; False when there is nothing left to do."""
        if not self.wanted:
            return False
        try:
            piece = next(self._steps)
        except StopIteration:
            self.put(None)
            return False
        except CoreError as error:
            self.put(error)
            return False
        except (RuntimeError, ValueError) as error:  # torch: this reply fails, the others go on
            log.exception("a reply failed")
            self.put(CoreError(f"decoding failed: {error}"))
            return False
        if piece:
            self.put(piece)
        return True

    def put(self, piece: str | CoreError | None) -> None:
        """Hand over to the event loop; a loop that is gone wants nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


def settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Heard], work: Callable[[], Heard]) -> None:
    """Do `work` here and give its result, or its error, to a future of the event loop."""
    try:
        result = work()
    except CoreError as error:
        fail(loop, future, error)
    except (RuntimeError, ValueError) as error:  # torch: this utterance fails, the others go on
        log.exception("an utterance failed")
        fail(loop, future, CoreError(f"encoding failed: {error}"))
    else:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve, future, result)


def fail(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Heard], error: CoreError) -> None:
    """Give an error to a future of the event loop."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(resolve, future, error)


def resolve(future: asyncio.Future[Heard], outcome: Heard | CoreError) -> None:
    """On the event loop: settle a future that nobody cancelled meanwhile."""
    if future.done():
        return
    if isinstance(outcome, CoreError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
