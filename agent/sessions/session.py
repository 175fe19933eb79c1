"""One conversation, as an actor: one bounded mailbox, and one task that alone changes anything.

Messages of the client and reports of the model come through the same mailbox, so every event is sent by that
one task, and the order of events is the order of its decisions. Replies and transcripts are made in tasks of
their own, which know only their question and report what comes. The transport is a coroutine that sends a
string; it holds no state.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.errors import SessionOver
from agent.functions.builtin import TimerNews
from agent.hearing.audio import check_samples
from agent.hearing.ear import Ear, EarLimits
from agent.protocol import server_events as events
from agent.protocol.client_events import (
    AudioAppend,
    AudioClear,
    AudioCommit,
    ClientEvent,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    PlaybackAck,
    ResponseCancel,
    SessionUpdate,
    knows_extensions,
    parse_client_event,
)
from agent.protocol.errors import ProtocolError
from agent.protocol.handshake import Handshake
from agent.protocol.legacy import legacy
from agent.protocol.response_create import ResponseCreate
from agent.protocol.settings import Fixed, SessionSettings, merge
from agent.protocol.speakers import SpeakerName
from agent.protocol.tools import Forced
from agent.sessions.ahead import Ahead, HeardAhead, HeardEarly, ReadAhead, TurnReport
from agent.sessions.attribution import Attribution
from agent.sessions.conversation import Conversation
from agent.sessions.functions import FunctionEnded, FunctionOptions, Functions
from agent.sessions.generation import ReplyBegun, ReplyCall, ReplyEnded, ReplyPiece, ReplyReport, SpokenPiece
from agent.sessions.items import Items
from agent.sessions.mailbox import LiveMailbox, Mailbox
from agent.sessions.planning import ReplyOptions
from agent.sessions.response import ReplyDue, Surroundings
from agent.sessions.responses import Responses
from agent.sessions.transcripts import TranscriptEnded, TranscriptPiece, TranscriptReport, Transcripts
from agent.sessions.turns import Turns
from agent.voices.speakers import SpeakerOptions
from wavllm_core.engine.api import Engine, Heard

log = logging.getLogger(__name__)
SLICE_S: Final = 1  # of audio, before other conversations get their chance
ONLY_TRANSCRIPTS: Final = "a transcription session answers nothing"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the operator decides for all conversations."""

    settings: SessionSettings  # that a session begins with
    replies: ReplyOptions
    ear: EarLimits
    speakers: SpeakerOptions
    version: str
    lifetime_s: float | None = None  # then a session is over
    functions: FunctionOptions = field(default_factory=FunctionOptions)
    judge_turn_end: Callable[[Heard], float] | None = None  # how finished it sounds, 0 to 1; None: nobody can tell
    legacy: bool = False  # events by the names of the beta for all, not only for those that ask


@dataclass(frozen=True, slots=True)
class _Expired:
    """Report: the session has lasted as long as it may."""


_Report = ReplyReport | FunctionEnded | TimerNews | TranscriptReport | TurnReport | _Expired


class Session:
    """A conversation between one client and the model."""

    def __init__(
        self,
        engine: Engine,
        options: SessionOptions,
        send: Callable[[str], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.perf_counter,
        *,
        mailbox: Mailbox | None = None,
        observe: Callable[[events.ServerEvent], None] = lambda _: None,
        handshake: Handshake = Handshake(),  # noqa: B008 - it is frozen
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[str], str] = events.new_id,
    ) -> None:
        """Whoever makes a session closes it. Raises CapacityError when the engine has no room for it."""
        self.id = new_id("sess")
        self._engine, self._options, self._send_text = engine, options, send
        self._observe, self._new_id = observe, new_id
        self._mailbox = mailbox or LiveMailbox(clock)
        self._expires_at = None if options.lifetime_s is None else int(wall_clock() + options.lifetime_s)
        self._context = engine.open_context()
        self._tasks = asyncio.TaskGroup()
        self._settings, self._handshake = handshake.apply(options.settings), handshake
        self._legacy = handshake.legacy or options.legacy
        self._extended = False  # the client knows events that are none of OpenAI's
        self._conversation = Conversation()
        self._who = Attribution(
            self._context, options.speakers, self._settings.speakers, self._conversation, self._send
        )
        zero_s = wall_clock() - (0.0 if mailbox else self._mailbox.now_s)  # one that is given counts from now
        self._functions = Functions(
            options.functions,
            self._who.person_of,
            self._tasks,
            self._mailbox,
            lambda: zero_s + self._mailbox.now_s,
            new_id,
        )
        own = tuple(tool.name for tool in self._functions.offered)
        self._settings = replace(self._settings, own_functions=own)
        self._ear = Ear(self._context, options.ear, self._settings, new_id)
        report = self._mailbox.report
        self._transcripts = Transcripts(engine, self._conversation, self._tasks, report, self._send, new_id)
        around = Surroundings(
            engine, self._conversation, options.replies.caller, self._send, lambda: self._mailbox.now_s, new_id
        )
        self._items = Items(around, self._ear, self._who, self._transcripts)
        self._around = around
        self._responses = Responses(self._context, options.replies, self._tasks, report, around, self._functions, clock)
        self._turns = Turns(
            around,
            self._ear,
            self._who,
            self._items,
            self._transcripts,
            self._responses,
            Ahead(around, self._ear, self._who, self._responses, self._start, options.judge_turn_end),
        )

    @property
    def settled(self) -> bool:
        """Nothing is owed to the client: no answer, no transcript, and nobody is speaking."""
        heard_out = self._transcripts.idle and not self._ear.holds_audio and self._mailbox.empty
        return heard_out and self._responses.all_done

    async def receive(self, message: str | bytes) -> None:
        """Deliver a message of the client; waits while there is enough to do."""
        await self._mailbox.deliver(message)

    async def run(self) -> None:
        """Converse until cancelled; no task outlives this call. Raises SessionOver, in a group, when time is up."""
        async with self._tasks:
            if self._options.lifetime_s is not None:
                self._tasks.create_task(self._expire(self._options.lifetime_s), name=f"expire {self.id}")
            await self._who.begin()
            await self._send(events.session_created(self._to_wire(), self._options.version))
            while True:
                await self._take(await self._mailbox.take())

    def close(self) -> None:
        """Free what the engine holds for this conversation."""
        self._ear.clear()
        self._context.close()

    async def _take(self, message: str | bytes | _Report) -> None:
        match message:
            case str() | bytes():
                await self._take_message(message)
            case ReplyPiece() | ReplyBegun() | SpokenPiece() | ReplyCall() | ReplyEnded() | FunctionEnded():
                await self._responses.take(message)
            case TranscriptPiece():
                await self._transcripts.take(message)
            case TranscriptEnded():
                await self._transcripts.take(message)
                await self._turns.take_transcript(message)
            case HeardAhead() | ReadAhead() | HeardEarly():
                await self._turns.take_report(message)
            case TimerNews() if self._functions.note(message):
                await self._send(events.timer_told(message.call_id, message.name, message.status, message.left_s))
            case _Expired():
                await self._end()
        if isinstance(message, ReplyEnded):
            self._turns.expect_speech()
        if isinstance(message, ReplyEnded | TranscriptEnded):
            self._turns.prepare()
        if self._transcripts.idle:
            await self._responses.resume()
            await self._tell_of_timers()

    async def _tell_of_timers(self) -> None:
        """Speak up about those that are over, once nobody else speaks."""
        if not self._responses.idle or self._ear.holds_audio:
            return
        if over := self._functions.take_over():
            for news in over:
                await self._items.add(self._around.output_item(news.call_id, json.dumps(news.output)))
            choice = self._settings.tool_choice
            settings = replace(self._settings, tool_choice="auto" if isinstance(choice, Forced) else choice)
            await self._responses.answer(ReplyDue(settings, self._mailbox.now_s))  # nobody has asked for a call

    async def _expire(self, lifetime_s: float) -> None:
        await self._mailbox.sleep(lifetime_s)
        await self._mailbox.report(_Expired())

    async def _end(self) -> None:
        why = f"the session has lasted {self._options.lifetime_s:g} s, as long as one may"
        await self._responses.abandon(why)
        await self._send(events.error(ProtocolError("session_expired", why)))
        raise SessionOver(why)

    def _to_wire(self) -> dict[str, Any]:
        return self._settings.to_wire(self.id, self._expires_at)

    def _start(self, work: Coroutine[Any, Any, _Report], name: str) -> None:
        async def report() -> None:
            await self._mailbox.report(await work)

        self._tasks.create_task(report(), name=name)

    async def _take_message(self, message: str | bytes) -> None:
        event_id: str | None = None
        try:
            event = parse_client_event(message, legacy=self._legacy)
            event_id = event.event_id
            self._extended = self._extended or knows_extensions(event)
            await self._handle(event)
        except ProtocolError as error:
            error.event_id = error.event_id or event_id
            await self._send(events.error(error))

    async def _handle(self, event: ClientEvent) -> None:
        match event:
            case AudioAppend():
                await self._append(event.audio)
            case AudioCommit():
                said = self._ear.take_committed()
                await self._turns.take_over()
                await self._turns.drop()
                await self._turns.commit(said, ReplyDue(self._settings, self._mailbox.now_s))
            case AudioClear():
                self._ear.clear()
                await self._turns.drop()
                await self._send(events.audio_cleared())
            case SessionUpdate():
                await self._update(event)
            case ItemCreate():
                await self._items.create(event.item, event.previous_item_id)
            case ItemRetrieve():
                await self._items.retrieve(event.item_id, self._settings)
            case ItemDelete():
                await self._items.delete(event.item_id)
            case ItemTruncate():
                await self._responses.truncate(event.item_id, event.audio_end_ms)
                self._turns.prepare()
            case ResponseCreate():
                await self._create_response(event)
            case PlaybackAck():
                await self._responses.acknowledge(event.item_id, event.played_ms)
            case ResponseCancel():
                await self._responses.cancel(event.response_id)
            case SpeakerName():
                await self._who.name(event)
                self._turns.prepare()

    async def _update(self, event: SessionUpdate) -> None:
        began = bool(self._conversation.items) or self._ear.holds_audio or not self._responses.idle
        fixed = Fixed(kind=began or self._handshake.transcribes, voice=self._responses.was_heard)
        self._settings = merge(self._settings, event.patch, self._options.settings, fixed)
        had_audio = self._ear.holds_audio
        self._ear.configure(self._settings)
        self._transcripts.told, self._transcripts.logprobs = self._settings.transcription, self._settings.logprobs
        self._who.settings = self._settings.speakers
        if had_audio and not self._ear.holds_audio:
            await self._turns.drop()
            await self._send(events.audio_cleared())
        await self._send(events.session_updated(self._to_wire()))

    async def _append(self, audio: bytes) -> None:
        check_samples(self._settings.input_format, audio, "audio")
        slice_bytes = SLICE_S * self._settings.input_format.bytes_per_s
        for offset in range(0, len(audio), slice_bytes):
            for happened in self._ear.hear(audio[offset : offset + slice_bytes]):
                await self._turns.take(happened)
            self._turns.label_early()
            if len(audio) > slice_bytes:
                await asyncio.sleep(0)

    async def _create_response(self, event: ResponseCreate) -> None:
        if self._settings.kind == "transcription":
            raise ProtocolError("unsupported_event", f"response.create: {ONLY_TRANSCRIPTS}", param="type")
        due = ReplyDue(self._settings, self._mailbox.now_s, overrides=event)
        self._responses.check(due)
        if event.input is not None:
            due = await self._items.given_to(due, event.input)
        else:
            due = replace(due, failure=self._who.refusal_of(self._conversation.last_said))
        if not event.out_of_band:
            await self._turns.take_over()
        await self._responses.answer(due)

    async def _send(self, event: events.ServerEvent) -> None:
        self._observe(event)
        if event["type"].startswith(events.EXTENSION) and not self._extended:
            return
        for told in legacy(event) if self._legacy else [event]:
            await self._send_text(events.encode(told, self._new_id))
