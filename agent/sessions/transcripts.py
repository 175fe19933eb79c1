"""What was said, in writing: for the history in any case, for the client where it wants to read it.

Acts only when its session tells it to; transcripts are made in tasks, which report to the session's mailbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from math import exp
from typing import Any, Final

from agent.protocol import server_events as events
from agent.sessions.conversation import Conversation, Item
from wavllm_core.engine.api import Engine, Heard, Written
from wavllm_core.errors import CoreError

MAX_TRANSCRIPTS: Final = 8  # under way in one conversation; more are refused


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was written down."""

    pieces: tuple[Written, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces).strip()

    @property
    def confidence(self) -> float:
        """From 0 to 1: the geometric mean of its tokens' probabilities."""
        tokens = sum(piece.tokens for piece in self.pieces)
        return exp(sum(piece.logprob for piece in self.pieces) / max(1, tokens))


@dataclass(frozen=True, slots=True)
class TranscriptPiece:
    """Report: more of what was said."""

    item: Item
    written: Written


@dataclass(frozen=True, slots=True)
class TranscriptEnded:
    """Report: that was all."""

    item: Item
    text: str
    failure: str | None
    pieces: tuple[Written, ...] = ()  # that the text was made of


TranscriptReport = TranscriptPiece | TranscriptEnded


class Transcripts:
    """Those of one conversation."""

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        tasks: asyncio.TaskGroup,
        report: Callable[[TranscriptReport], Awaitable[None]],
        send: Callable[[events.ServerEvent], Awaitable[None]],
        new_id: Callable[[str], str],
    ) -> None:
        self.told = True  # the client wants to read them
        self.logprobs = False  # and how sure the model was of each token
        self._engine, self._conversation = engine, conversation
        self._tasks, self._report, self._send, self._new_id = tasks, report, send, new_id
        self._under_way = 0

    @property
    def idle(self) -> bool:
        return not self._under_way

    async def begin(self, item: Item, failure: str | None, known: str = "") -> bool:
        """Have written down what was heard, or tell why it was not; returns whether a `TranscriptEnded` follows.

        known: what was said, where the item keeps nothing that could be written down
        """
        self._under_way += 1
        if failure is None and self._under_way > MAX_TRANSCRIPTS:
            failure = f"{MAX_TRANSCRIPTS} transcripts of this conversation are under way already"
        if failure is not None or item.heard is None:
            await self._end(TranscriptEnded(item, known, failure))
            return False
        self._tasks.create_task(self._write_down(item, item.heard), name=f"transcribe {item.id}")
        return True

    async def take(self, report: TranscriptReport) -> None:
        """Pass on what was written; of an item that is gone, nothing."""
        if isinstance(report, TranscriptEnded):
            await self._end(report)
        elif self._is_told(report.item):
            logprobs = self._logprobs([report.written])
            await self._send(events.transcript_delta(report.item.id, report.written.text, logprobs))

    async def _write_down(self, item: Item, heard: Heard) -> None:
        written: list[Written] = []
        failure = None
        try:
            async with aclosing(self._engine.transcribe(heard)) as pieces:
                async for piece in pieces:
                    written.append(piece)
                    if piece.text:
                        await self._report(TranscriptPiece(item, piece))
        except CoreError as error:
            failure = str(error)
        whole = Transcript(tuple(written))
        await self._report(TranscriptEnded(item, whole.text, failure, whole.pieces))

    async def _end(self, ended: TranscriptEnded) -> None:
        item = ended.item
        self._under_way -= 1
        item.text, item.tokens = ended.text, self._engine.count_tokens(ended.text)
        if not self._is_told(item):
            return
        if ended.failure is not None:
            await self._send(events.transcript_failed(item.id, ended.failure))
            return
        speaker = self._conversation.speaker_label(item)
        if speaker and item.text:
            await self._send(events.transcript_segment(item.id, self._new_id("seg"), item.text, item.seconds, speaker))
        logprobs = self._logprobs(ended.pieces)
        await self._send(events.transcript_completed(item.id, item.text, item.seconds, speaker, logprobs))

    def _logprobs(self, pieces: Sequence[Written]) -> list[dict[str, Any]] | None:
        if not self.logprobs:
            return None
        return [events.logprob(piece.text, piece.logprob) for piece in pieces if piece.text and piece.tokens]

    def _is_told(self, item: Item) -> bool:
        return self.told and item in self._conversation.items
