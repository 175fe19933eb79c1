"""One conversation, as an actor: one bounded mailbox, and one task that alone changes anything.

Messages of the client and reports of the model come through the same mailbox, so every event is sent by that
one task, and the order of events is the order of its decisions. Replies and transcripts are made in tasks of
their own, which know only their question and report what comes. The transport is a coroutine that sends a
string; it holds no state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.audio import check_samples
from agent.conversation import Conversation, Item
from agent.ear import Ear, EarLimits, OpenUtterance, to_ms
from agent.generation import ReplyBegun, ReplyEnded, ReplyPiece, ReplyReport, SpokenPiece
from agent.protocol import server_events as events
from agent.protocol.client_events import (
    AudioAppend,
    AudioClear,
    AudioCommit,
    ClientEvent,
    ItemCreate,
    ItemDelete,
    ItemTruncate,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    parse_client_event,
)
from agent.protocol.errors import ProtocolError
from agent.protocol.settings import SessionSettings, merge
from agent.responses import ReplyDue, ReplyOptions, Responses
from agent.speakers import Speakers
from agent.turns import SpeechPaused, SpeechStarted, SpeechStopped
from wavllm_core.engine.api import Engine, Exchange, Heard
from wavllm_core.errors import CoreError

MAILBOX_MESSAGES: Final = 64  # then whoever delivers waits, and so does the client
LARGE_MESSAGE_CHARS: Final = 2**18  # one at a time, so that a mailbox stays small in bytes too
SLICE_S: Final = 1  # of audio, before other conversations get their chance
MAX_TRANSCRIPTS: Final = 8  # under way in one conversation; more are refused


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the operator decides for all conversations."""

    settings: SessionSettings  # that a session begins with
    replies: ReplyOptions
    ear: EarLimits
    same_speaker_similarity: float
    version: str


@dataclass(frozen=True, slots=True)
class _TranscriptPiece:
    """Report: more of what was said."""

    item: Item
    text: str


@dataclass(frozen=True, slots=True)
class _TranscriptEnded:
    """Report: that was all."""

    item: Item
    text: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class _HeardAhead:
    """Report: what was said up to a pause."""

    said: OpenUtterance
    samples: int  # of it then
    heard: Heard | None  # None: listening failed, which the end of the turn will tell


class Session:
    """A conversation between one client and the model."""

    def __init__(
        self,
        engine: Engine,
        options: SessionOptions,
        send: Callable[[str], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.perf_counter,
        observe: Callable[[events.ServerEvent], None] = lambda _: None,
    ) -> None:
        """Whoever makes a session closes it. Raises CapacityError when the engine has no room for it."""
        self.id = events.new_id("sess")
        self._engine, self._options, self._send_text, self._clock = engine, options, send, clock
        self._observe = observe
        self._mailbox: asyncio.Queue[str | bytes | ReplyReport | _TranscriptPiece | _TranscriptEnded | _HeardAhead] = (
            asyncio.Queue(MAILBOX_MESSAGES)
        )
        self._context = engine.open_context()
        self._tasks = asyncio.TaskGroup()
        self._settings = options.settings
        self._ear = Ear(self._context, options.ear, options.settings)
        self._conversation = Conversation()
        self._speakers = Speakers(options.same_speaker_similarity)
        self._transcripts = 0  # under way
        self._responses = Responses(
            engine,
            self._context,
            self._conversation,
            options.replies,
            self._tasks,
            self._mailbox.put,
            self._send,
            clock,
        )

    @property
    def settled(self) -> bool:
        """Nothing is owed to the client: no answer, no transcript, and nobody is speaking."""
        busy = self._transcripts or self._ear.holds_audio or not self._mailbox.empty()
        return self._responses.idle and not busy

    async def receive(self, message: str | bytes) -> None:
        """Deliver a message of the client; waits while there is enough to do."""
        await self._mailbox.put(message)
        if len(message) > LARGE_MESSAGE_CHARS:
            await self._mailbox.join()

    async def run(self) -> None:
        """Converse until cancelled; no task outlives this call."""
        async with self._tasks:
            wire = self._settings.to_wire(self.id)
            await self._send(events.session_created(wire, self._options.version))
            while True:
                match await self._mailbox.get():
                    case str() | bytes() as message:
                        await self._take_message(message)
                    case ReplyPiece() | ReplyBegun() | SpokenPiece() as piece:
                        await self._responses.take(piece)
                    case ReplyEnded() as ended:
                        await self._responses.take(ended)
                        self._prepare()
                    case _TranscriptPiece() as written:
                        await self._take_transcript_piece(written)
                    case _TranscriptEnded() as over:
                        await self._end_transcript(over)
                        self._prepare()
                    case _HeardAhead() as ahead:
                        self._take_heard_ahead(ahead)
                self._mailbox.task_done()

    def close(self) -> None:
        """Free what the engine holds for this conversation."""
        self._ear.clear()
        self._context.close()

    def _prepare(self) -> None:
        """Have the model read what was said, while nobody waits for it."""
        if self._responses.idle and not self._transcripts:
            instructions = self._conversation.instructions(self._settings.instructions)
            self._context.prepare(instructions, self._conversation.exchanges(waiting=False))

    async def _take_message(self, message: str | bytes) -> None:
        event_id: str | None = None
        try:
            event = parse_client_event(message)
            event_id = event.event_id
            await self._handle(event)
        except ProtocolError as error:
            error.event_id = error.event_id or event_id
            await self._send(events.error(error))

    async def _handle(self, event: ClientEvent) -> None:
        match event:
            case AudioAppend():
                await self._append(event.audio)
            case AudioCommit():
                await self._commit(self._ear.take_committed(), ReplyDue(self._settings, self._clock()))
            case AudioClear():
                self._ear.clear()
                await self._send(events.audio_cleared())
            case SessionUpdate():
                await self._update(event)
            case ItemCreate():
                await self._create_item(event)
            case ItemDelete():
                self._conversation.remove(event.item_id)
                await self._send(events.item_deleted(event.item_id))
            case ItemTruncate():
                await self._responses.truncate(event.item_id, event.audio_end_ms)
                self._prepare()
            case ResponseCreate():
                await self._responses.create(ReplyDue(self._settings, self._clock(), overrides=event))
            case ResponseCancel():
                await self._responses.cancel(event.response_id)

    async def _update(self, event: SessionUpdate) -> None:
        self._settings = merge(self._settings, event.patch, self._options.settings)
        had_audio = self._ear.holds_audio
        self._ear.configure(self._settings)
        if had_audio and not self._ear.holds_audio:
            await self._send(events.audio_cleared())
        await self._send(events.session_updated(self._settings.to_wire(self.id)))

    async def _append(self, audio: bytes) -> None:
        check_samples(self._settings.input_format, audio, "audio")
        slice_bytes = SLICE_S * self._settings.input_format.bytes_per_s
        for offset in range(0, len(audio), slice_bytes):
            for happened in self._ear.hear(audio[offset : offset + slice_bytes]):
                match happened:
                    case SpeechStarted():
                        await self._speech_started(happened)
                    case SpeechPaused():
                        self._speech_paused()
                    case SpeechStopped():
                        await self._speech_stopped(happened)
            if len(audio) > slice_bytes:
                await asyncio.sleep(0)

    async def _speech_started(self, started: SpeechStarted) -> None:
        await self._send(events.speech_started(self._ear.item_id, to_ms(started.start_sample)))
        detection = self._settings.turn_detection
        if detection and detection.interrupt_response:
            await self._responses.interrupt()
        self._prepare()

    def _speech_paused(self) -> None:
        """Use the wait for the end of the turn: what was said so far may be all."""
        detection, said = self._settings.turn_detection, self._ear.opened
        if said and detection and detection.create_response and self._responses.idle and not said.heard_ahead:
            said.heard_ahead = True
            self._tasks.create_task(self._hear_ahead(said, said.samples), name=f"hear ahead {said.item_id}")

    async def _hear_ahead(self, said: OpenUtterance, samples: int) -> None:
        heard = None
        with suppress(CoreError):
            heard = await said.utterance.hear()
        await self._mailbox.put(_HeardAhead(said, samples, heard))

    def _take_heard_ahead(self, ahead: _HeardAhead) -> None:
        said, heard = ahead.said, ahead.heard
        said.heard_ahead = False
        if heard and self._ear.opened is said and said.samples == ahead.samples:
            guess = self._speakers.guess(heard.speaker_vector)
            self._responses.speculate(self._settings, Exchange(heard=heard, speaker=guess.number))

    async def _speech_stopped(self, stopped: SpeechStopped) -> None:
        due = ReplyDue(self._settings, self._clock(), to_ms(stopped.confirmed_sample - stopped.last_voiced_sample))
        said = self._ear.take()
        await self._send(events.speech_stopped(said.item_id, to_ms(stopped.confirmed_sample)))
        await self._commit(said, due)

    async def _commit(self, said: OpenUtterance, due: ReplyDue) -> None:
        """Make a user item of an utterance; answer it where the server finds the turns."""
        item = Item(said.item_id, "user", spoken=True, seconds=said.seconds)
        try:
            await self._send(events.audio_committed(item.id, self._conversation.last_id))
            await self._add_item(item)
            failure = await self._finish_listening(said, item)
        finally:
            said.utterance.cancel()
        detection = self._settings.turn_detection
        if detection and detection.create_response:
            await self._responses.answer(replace(due, failure=failure))
        await self._transcribe(item, failure)

    async def _finish_listening(self, said: OpenUtterance, item: Item) -> str | None:
        """Give the item what was heard, and tell who spoke; returns why not, if not."""
        try:
            heard = await said.utterance.hear()
        except CoreError as error:
            return str(error)
        guess = self._speakers.assign(heard.speaker_vector, heard.seconds)
        item.heard, item.speaker = heard, guess.number
        await self._send(events.speaker_told(item.id, guess.number, guess.similarity))
        return None

    async def _create_item(self, event: ItemCreate) -> None:
        self._conversation.check_new(event.item_id, event.previous_item_id)
        item = Item(event.item_id or events.new_id("item"), event.role, event.text)
        if event.audio is None:
            await self._add_item(item, event.previous_item_id)
            return
        said = self._ear.take_whole(event.audio, "item.content[0].audio")
        try:
            item.spoken, item.seconds = True, said.seconds
            await self._add_item(item, event.previous_item_id)
            failure = await self._finish_listening(said, item)
        finally:
            said.utterance.cancel()
        await self._transcribe(item, failure)

    async def _add_item(self, item: Item, previous_item_id: str | None = None) -> None:
        before = self._conversation.add(item, previous_item_id)
        item.tokens = self._engine.count_tokens(item.text)
        await self._send(events.item_added(item.to_wire(), before))
        await self._send(events.item_done(item.to_wire(), before))

    async def _transcribe(self, item: Item, failure: str | None) -> None:
        """Have written down what was heard, for the history and the client; nobody waits for it."""
        self._transcripts += 1
        if failure is None and self._transcripts > MAX_TRANSCRIPTS:
            failure = f"{MAX_TRANSCRIPTS} transcripts of this conversation are under way already"
        if failure is not None or item.heard is None:
            await self._end_transcript(_TranscriptEnded(item, "", failure))
        else:
            self._tasks.create_task(self._write_down(item, item.heard), name=f"transcribe {item.id}")

    async def _write_down(self, item: Item, heard: Heard) -> None:
        text, failure = "", None
        try:
            async with aclosing(self._engine.transcribe(heard)) as pieces:
                async for piece in pieces:
                    text += piece
                    await self._mailbox.put(_TranscriptPiece(item, piece))
        except CoreError as error:
            failure = str(error)
        await self._mailbox.put(_TranscriptEnded(item, text.strip(), failure))

    async def _take_transcript_piece(self, piece: _TranscriptPiece) -> None:
        if self._settings.transcription and piece.item in self._conversation.items:
            await self._send(events.transcript_delta(piece.item.id, piece.text))

    async def _end_transcript(self, ended: _TranscriptEnded) -> None:
        item = ended.item
        self._transcripts -= 1
        item.text, item.tokens = ended.text, self._engine.count_tokens(ended.text)
        if not self._settings.transcription or item not in self._conversation.items:
            return
        if ended.failure is None:
            await self._send(events.transcript_completed(item.id, item.text, item.seconds, item.speaker))
        else:
            await self._send(events.transcript_failed(item.id, ended.failure))

    async def _send(self, event: events.ServerEvent) -> None:
        self._observe(event)
        await self._send_text(events.encode(event))
