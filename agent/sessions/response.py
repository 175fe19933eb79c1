"""One response, from `response.created` to `response.done`: its items, its events, its figures.

Acts only when `Responses` tells it to, which also sees to it that nothing is told after the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agent.functions.registry import Outcome
from agent.hearing.audio import Encoder
from agent.protocol.replies import Ending, ReplyEvents
from agent.protocol.response_create import ResponseCreate
from agent.protocol.server_events import ServerEvent, function_told, item_added, item_done
from agent.protocol.settings import SessionSettings
from agent.protocol.tools import FunctionTool
from agent.sessions.conversation import Called, Calling, Conversation, Item, last_said
from agent.sessions.draft import NOTHING_TOLD, Draft, Told
from agent.sessions.tool_calls import ToolCaller
from agent.speech.alignment import Alignment
from agent.speech.speaking import AudioChunk, Pace, SentenceBegun, SentenceMade, SpeechOptions, Spoken, VoiceLost
from agent.speech.voice import VOICE_RATE
from wavllm_core.engine.api import Context, Engine, Exchange, Sampling

SPOKEN_TOKENS_PER_S: Final = 20  # as OpenAI counts the audio of replies
INTERRUPTED: Final = Outcome.failure("interrupted", "the response ended before; it may have been done all the same")


@dataclass(frozen=True, slots=True)
class ReplyDue:
    """Why and since when a reply is owed."""

    settings: SessionSettings  # as they were then
    confirmed_s: float  # wall clock
    vad_wait_ms: int | None = None  # stream time; None where the client ended the turn
    overrides: ResponseCreate = field(default_factory=ResponseCreate)
    failure: str | None = None  # there is nothing to answer, because listening failed
    input: Sequence[Item] | None = None  # instead of the conversation


@dataclass(frozen=True, slots=True)
class ReplyPlan:
    """What the model is asked for, and how the answer is given; nothing changes it."""

    due: ReplyDue
    items: Sequence[Item]  # that it answers
    instructions: str
    history: Sequence[Exchange]
    sampling: Sampling
    speech: SpeechOptions | None  # None: in writing
    tools: Sequence[FunctionTool]  # that may be called
    parallel_calls: bool
    input_tokens: tuple[int, int]  # text, audio
    given: str | None  # words to say instead of asking the model
    after: str  # the item it answers, whatever is added meanwhile; "root": none
    told: Told = NOTHING_TOLD  # of its draft, by a response that was broken off

    @property
    def asker(self) -> Item | None:
        """What a person said last: who it was decides what may be called."""
        return last_said(self.items)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all responses of one session share."""

    engine: Engine
    conversation: Conversation
    caller: ToolCaller | None
    send: Callable[[ServerEvent], Awaitable[None]]
    clock: Callable[[], float]
    new_id: Callable[[str], str]

    def output_item(self, call_id: str, output: str) -> Item:
        """What a call gave, as the model that wrote it reads it."""
        assert self.caller
        return Item(self.new_id("item"), "user", self.caller.write_output(output), tool=Called(call_id, output))


class Response:
    """The one that a client sees as one `response`."""

    def __init__(self, events: ReplyEvents, plan: ReplyPlan, draft: Draft, pace: Pace, around: Surroundings) -> None:
        self.events, self.plan, self.draft, self.pace = events, plan, draft, pace
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None  # that it is asked of
        self.item: Item | None = None  # the message that is open
        self.message: Item | None = None  # the newest, open or not
        self._message_at = self._chars = plan.told.chars  # of the draft: where it begins; all that was told
        self._calls = plan.told.calls  # likewise
        self.pending: dict[str, Calling] = {}  # calls that the server has yet to answer
        self.rounds = 0  # of calls that the server has answered
        self.asks_client = False  # to answer a call, so this response ends here
        self.busy = False  # the model is writing
        self._made: list[Item] = []  # since the model was asked
        self._around = around
        self._after = plan.after
        self._encoder = Encoder(events.output_format)  # of what the client hears
        self.tokens = 0  # of items that are closed
        self._spoken_samples = 0  # likewise
        self._latency_ms: dict[str, float] = {}

    @property
    def id(self) -> str:
        return self.events.response_id

    @property
    def out_of_band(self) -> bool:
        return self.events.conversation_id is None

    @property
    def spoken(self) -> bool:
        """Its newest message has sound."""
        return self.message is not None and self.message.alignment is not None

    @property
    def told(self) -> Told:
        """How much of the draft the client has, as far as it is known by now."""
        return Told(self._message_at + len(self.message.text if self.message else ""), self._calls)

    async def begin(self) -> None:
        """Tell that it exists."""
        await self._send(self.events.begin())

    def note(self, what: str) -> None:
        """Remember when something was there first."""
        self._latency_ms.setdefault(what, self._since_due_ms())

    async def write(self, text: str) -> None:
        """More text of a written reply."""
        await self._open()
        await self._around.send(self.events.piece(text))
        self.note("first_token_ms")

    async def speak(self, spoken: Spoken) -> str | None:
        """More of a spoken reply; returns why it cannot be heard, if it cannot."""
        item = await self._open()
        assert item.alignment
        match spoken:
            case SentenceBegun(text):
                self.note("first_sentence_ms")
                item.alignment.begin(text)
                await self._around.send(self.events.piece(text))
            case AudioChunk(pcm):
                await self._send_audio(self._encoder.push(pcm))
                item.alignment.add(len(pcm) // 2)
                self._around.conversation.audio.add(item.id, pcm)
                self.note("first_audio_ms")
            case SentenceMade(samples):
                item.alignment.settle(samples)
            case VoiceLost(why):
                return why
        return None

    async def call(self, calling: Calling) -> None:
        """The model calls a function: one more item. What the server answers is no output that a client acts on."""
        await self._close_message()
        self._calls += 1
        around = self._around
        assert around.caller
        call = calling.call
        item = Item(around.new_id("item"), "assistant", around.caller.write_call(call), tool=calling)
        item.tokens = around.engine.count_tokens(item.text)
        self.tokens += item.tokens
        if calling.by_server:
            self.pending[calling.call_id] = calling
            await self._add(item)
            await around.send(function_told(self.id, calling.call_id, call.name, "in_progress"))
        else:
            self.asks_client, before = True, self._place(item)
            await self._send(self.events.call(item.id, calling.call_id, call.name, call.arguments, before))
        self.note("first_token_ms")

    async def answer(self, call_id: str, outcome: Outcome) -> None:
        """A call has come to an outcome: the item that the model reads."""
        await self._close_message()
        name = self.pending.pop(call_id).call.name
        await self._add(self._around.output_item(call_id, outcome.output))
        status: Literal["completed", "failed"] = "failed" if outcome.code else "completed"
        await self._around.send(function_told(self.id, call_id, name, status, outcome.code, outcome.message))

    def renew(self, plan: ReplyPlan) -> None:
        """The model is asked again, with what came of its calls."""
        self.plan, self.draft, self.message = plan, Draft(), None
        self._message_at = self._chars = self._calls = 0

    def take_made(self) -> list[Item]:
        """The items since the model was asked, as what it reads when it is asked again."""
        made, self._made = self._made, []
        return made

    async def complete(self) -> None:
        """The model has said all."""
        if self.events.empty:
            await self._open()  # a reply of no words is still a message
        before = self.draft.text[: self.plan.told.chars]
        tokens = self.tokens + sum(map(self._around.engine.count_tokens, (before, self.events.text)))
        if self.plan.given is None and tokens >= self.plan.sampling.max_tokens:
            await self.end("incomplete", reason="max_output_tokens")
        else:
            await self.end("completed")

    async def end(
        self, ending: Ending, *, reason: str | None = None, failure: str | None = None, keep_draft: bool = False
    ) -> None:
        """Close the response and everything it opened. keep_draft: the model may write on"""
        if self.task:
            self.task.cancel()
        if not keep_draft:
            self.draft.drop()
        if ending == "cancelled":
            self.pace.drop()
        else:
            await self._flush_audio()
        self._finish_item(ending)
        for call_id in list(self.pending):
            await self.answer(call_id, INTERRUPTED)
        usage, latency = self._usage(), self._latency()
        await self._send(self.events.end(ending, usage=usage, reason=reason, failure=failure, latency=latency))

    async def _open(self) -> Item:
        """Make the message known, if it is not."""
        if self.item is None:
            alignment = Alignment() if self.plan.speech else None
            item_id, aside = self._around.new_id("item"), self.plan.given is not None
            self.item = Item(item_id, "assistant", status="in_progress", alignment=alignment, aside=aside)
            self.message, self._message_at = self.item, self._chars
            if alignment and not self.out_of_band:
                self._around.conversation.audio.begin(self.item.id)
            before = self._place(self.item)
            await self._send(self.events.open(self.item.id, before))
        return self.item

    async def _close_message(self) -> None:
        if self.item:
            await self._flush_audio()
            self._finish_item("completed")
            await self._send(self.events.close())

    async def _flush_audio(self) -> None:
        if self.item and self.item.alignment:
            await self._send_audio(self._encoder.flush())

    async def _send_audio(self, audio: bytes) -> None:
        if audio:  # a resampler holds a little back
            await self._around.send(self.events.audio(audio))

    def _finish_item(self, ending: Ending) -> None:
        """Leave in the history what was said; of a cancelled spoken message, what was sent at most."""
        item, self.item = self.item, None
        if item is None:
            return
        self.tokens += self._around.engine.count_tokens(self.events.text)
        self._chars += len(self.events.text)
        item.text = self.events.text
        if item.alignment:
            if ending == "cancelled":
                item.alignment.truncate(item.alignment.sent_ms)  # nobody can have heard more
            self._spoken_samples += item.alignment.sent_samples
            item.text = item.alignment.text
        item.tokens = self._around.engine.count_tokens(item.text)
        item.status = "completed" if ending == "completed" else "incomplete"

    def _place(self, item: Item) -> str | None:
        """Put an item into the conversation, behind what it belongs to; returns which one is before it."""
        if self.out_of_band:
            return None
        conversation = self._around.conversation
        before = conversation.add(item, conversation.place_after(self._after))
        self._after = item.id
        self._made.append(item)
        return before

    async def _add(self, item: Item) -> None:
        """Put an item into the conversation that is no output of the response, and tell of it."""
        before = self._place(item)
        item.tokens = self._around.engine.count_tokens(item.text)
        await self._send([item_added(item.to_wire(), before), item_done(item.to_wire(), before)])

    async def _send(self, events: Sequence[ServerEvent]) -> None:
        for event in events:
            await self._around.send(event)

    def _latency(self) -> dict[str, float | None]:
        wait_ms = self.plan.due.vad_wait_ms
        names = ["first_token_ms", *(["first_sentence_ms", "first_audio_ms"] if self.plan.speech else [])]
        return {
            "vad_wait_ms": wait_ms,
            **{name: self._latency_ms.get(name) for name in names},
            "total_ms": round((wait_ms or 0) + self._since_due_ms(), 1),
        }

    def _since_due_ms(self) -> float:
        return round(1000 * (self._around.clock() - self.plan.due.confirmed_s), 1)

    def _usage(self) -> dict[str, Any]:
        heard_text, heard_audio = self.plan.input_tokens
        cached = 0
        if usage := self.context and self.context.prompt_usage():
            heard_audio = min(heard_audio, usage.tokens)
            heard_text, cached = usage.tokens - heard_audio, usage.cached_tokens
        audio_tokens = round(SPOKEN_TOKENS_PER_S * self._spoken_samples / VOICE_RATE)
        inputs, outputs = heard_text + heard_audio, self.tokens + audio_tokens
        details = {"text_tokens": heard_text, "audio_tokens": heard_audio, "cached_tokens": cached}
        return {
            "total_tokens": inputs + outputs,
            "input_tokens": inputs,
            "output_tokens": outputs,
            "input_token_details": details,
            "output_token_details": {"text_tokens": self.tokens, "audio_tokens": audio_tokens},
        }
