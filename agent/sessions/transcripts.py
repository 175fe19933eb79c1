"""What was said, in writing: for the history in any case, for the client where it wants to read it.

Acts only when its session tells it to; transcripts are made in tasks, which report to the session's mailbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from agent.protocol import server_events as events
from agent.sessions.conversation import Conversation, Item
from wavllm_core.engine.api import Engine, Heard
from wavllm_core.errors import CoreError

MAX_TRANSCRIPTS: Final = 8  # under way in one conversation; more are refused


@dataclass(frozen=True, slots=True)
class TranscriptPiece:
    """Report: more of what was said."""

    item: Item
    text: str


@dataclass(frozen=True, slots=True)
class TranscriptEnded:
    """Report: that was all."""

    item: Item
    text: str
    failure: str | None


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
            await self._send(events.transcript_delta(report.item.id, report.text))

    async def _write_down(self, item: Item, heard: Heard) -> None:
        text, failure = "", None
        try:
            async with aclosing(self._engine.transcribe(heard)) as pieces:
                async for piece in pieces:
                    text += piece
                    await self._report(TranscriptPiece(item, piece))
        except CoreError as error:
            failure = str(error)
        await self._report(TranscriptEnded(item, text.strip(), failure))

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
        await self._send(events.transcript_completed(item.id, item.text, item.seconds, speaker))

    def _is_told(self, item: Item) -> bool:
        return self.told and item in self._conversation.items
