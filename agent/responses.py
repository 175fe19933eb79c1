"""The replies of one conversation: at most one under way, each closed exactly once.

Acts only when its session tells it to. The model is asked in a task of `generation`, which reports to the session's
mailbox; a report for a response that is over is dropped here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

from agent.alignment import Alignment
from agent.audio import Encoder
from agent.conversation import Conversation, Item
from agent.generation import ReplyBegun, ReplyEnded, ReplyPiece, ReplyReport, SpokenPiece, speak_reply, write_reply
from agent.protocol.client_events import ResponseCreate
from agent.protocol.errors import ProtocolError
from agent.protocol.replies import Ending, ReplyEvents
from agent.protocol.server_events import ServerEvent, error, item_truncated, new_id
from agent.protocol.settings import NO_VOICE, SessionSettings
from agent.speaking import AudioChunk, Pace, SentenceBegun, SentenceMade, SpeechOptions, Spoken, VoiceLost, speak
from agent.voice import VOICE_RATE
from wavllm_core.engine.api import Context, Engine, Exchange, Sampling

AUDIO_TOKENS_PER_S: Final = 12.5
SPOKEN_TOKENS_PER_S: Final = 20  # as OpenAI counts the audio of replies

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """What the operator decides about replies."""

    sampling: Sampling  # max_tokens is the most that a client may ask for
    speech: SpeechOptions | None  # None: they cannot be spoken


@dataclass(frozen=True, slots=True)
class ReplyDue:
    """Why and since when a reply is owed."""

    settings: SessionSettings  # as they were then
    confirmed_s: float  # wall clock
    vad_wait_ms: int | None = None  # stream time; None where the client ended the turn
    overrides: ResponseCreate = field(default_factory=ResponseCreate)
    failure: str | None = None  # there is nothing to answer, because listening failed


@dataclass(slots=True, eq=False)
class _Response:
    """The one under way."""

    events: ReplyEvents
    due: ReplyDue
    instructions: str
    sampling: Sampling
    input_tokens: tuple[int, int]  # text, audio
    after: str  # the item it answers, whatever is added meanwhile; "root": none
    alignment: Alignment | None  # None: in writing
    encoder: Encoder  # of what the client hears
    task: asyncio.Task[None] | None = None
    item: Item | None = None  # once there is text
    first_token_ms: float | None = None
    first_sentence_ms: float | None = None  # handed to the voice
    first_audio_ms: float | None = None

    @property
    def seconds(self) -> float:
        """Of audio that was sent."""
        return self.alignment.sent_samples / VOICE_RATE if self.alignment else 0.0


class Responses:
    """Asks the model, and says in events what becomes of it."""

    def __init__(
        self,
        engine: Engine,
        context: Context,
        conversation: Conversation,
        options: ReplyOptions,
        tasks: asyncio.TaskGroup,
        report: Callable[[ReplyReport], Awaitable[None]],
        send: Callable[[ServerEvent], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._context = engine, context
        self._conversation = conversation
        self._sampling, self._speech = options.sampling, options.speech
        self._tasks, self._report, self._send, self._clock = tasks, report, send, clock
        self._conversation_id = new_id("conv")
        self._active: _Response | None = None
        self._due: ReplyDue | None = None  # while another is active
        self._pace = Pace(options.speech.lead_s if options.speech else 0)  # of all replies: one may still be heard
        self._voice_failed = False  # and the client was told

    @property
    def idle(self) -> bool:
        """Nothing is under way or due."""
        return self._active is None

    def speculate(self, settings: SessionSettings, exchange: Exchange) -> None:
        """Have the model answer what is probably the end of a turn, so that `answer` finds it done."""
        if self._active:
            return
        history = [*self._conversation.exchanges(waiting=False), exchange]
        self._context.speculate(
            self._conversation.instructions(settings.instructions), history, self._limited(settings.max_output_tokens)
        )

    async def create(self, due: ReplyDue) -> None:
        """Answer because the client asks. Raises ProtocolError while a response is active, or without a voice."""
        if due.overrides.output == "audio" and self._speech is None:
            message = f'response.output_modalities must be ["text"]: {NO_VOICE}'
            raise ProtocolError("invalid_value", message, param="response.output_modalities")
        if self._active:
            message = f"response {self._active.events.response_id} is still active; cancel it first"
            raise ProtocolError("conversation_already_has_active_response", message)
        await self.answer(due)

    async def answer(self, due: ReplyDue) -> None:
        """Answer now, or when the response under way is over."""
        if self._active:
            self._due = due
            return
        response = self._active = self._new_response(due)
        for event in response.events.begin():
            await self._send(event)
        if due.failure is not None:
            await self._end(response, "failed", failure=due.failure)
        else:
            work = self._generate(response, self._conversation.exchanges())
            response.task = self._tasks.create_task(work, name=f"reply {response.events.response_id}")

    async def cancel(self, response_id: str | None) -> None:
        """Stop because the client asks. Raises ProtocolError when that response is not active."""
        if self._active is None or response_id not in (None, self._active.events.response_id):
            which = f"response {response_id}" if response_id else "no response"
            raise ProtocolError("response_cancel_not_active", f"{which} is active", param="response_id")
        await self._end(self._active, "cancelled", reason="client_cancelled")

    async def interrupt(self) -> None:
        """Stop, if there is anything to stop, because somebody speaks."""
        self._pace.drop()
        if self._active:
            self._due = None
            await self._end(self._active, "cancelled", reason="turn_detected")

    async def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Forget the words of a spoken reply that were not heard, and speak no more of it.

        Raises ProtocolError when there is no such reply, or less of it.
        """
        item, response = self._conversation.truncate(item_id, audio_end_ms), self._active
        item.tokens = self._engine.count_tokens(item.text)
        self._pace.drop()
        if response and response.item is item:
            await self._end(response, "cancelled", reason="client_cancelled")
        await self._send(item_truncated(item_id, audio_end_ms))

    async def take(self, report: ReplyReport) -> None:
        """Pass on what the model said; nothing when that response is over."""
        response = self._active
        if response is None or response.events.response_id != report.response_id:
            return
        match report:
            case ReplyPiece():
                await self._open(response)
                await self._send(response.events.piece(report.text))
                response.first_token_ms = response.first_token_ms or self._since_due_ms(response)
            case ReplyBegun():
                response.first_token_ms = self._since_due_ms(response)
            case SpokenPiece():
                await self._take_spoken(response, report.spoken)
                report.taken.set()
            case ReplyEnded():
                await self._end_generated(response, report.failure)

    async def _take_spoken(self, response: _Response, spoken: Spoken) -> None:
        await self._open(response)
        assert response.alignment
        match spoken:
            case SentenceBegun(text):
                response.first_sentence_ms = response.first_sentence_ms or self._since_due_ms(response)
                response.alignment.begin(text)
                await self._send(response.events.piece(text))
            case AudioChunk(pcm):
                await self._send_audio(response, response.encoder.push(pcm))
                response.alignment.add(len(pcm) // 2)
                response.first_audio_ms = response.first_audio_ms or self._since_due_ms(response)
            case SentenceMade(samples):
                response.alignment.settle(samples)
            case VoiceLost(why) if not self._voice_failed:
                self._voice_failed = True
                log.warning("%s is not spoken: %s", response.events.response_id, why)
                message = f"replies go on in writing where they cannot be spoken: {why}"
                await self._send(error(ProtocolError("voice_failed", message), kind="server_error"))

    async def _send_audio(self, response: _Response, audio: bytes) -> None:
        if audio:  # a resampler holds a little back
            await self._send(response.events.audio(audio))

    def _new_response(self, due: ReplyDue) -> _Response:
        settings, overrides = due.settings, due.overrides
        wanted = overrides.max_output_tokens or settings.max_output_tokens
        own = settings.instructions if overrides.instructions is None else overrides.instructions
        instructions = self._conversation.instructions(own)
        spoken = self._speech if (overrides.output or settings.output) == "audio" else None
        voice, output_format = spoken.voice.name if spoken else None, overrides.output_format or settings.output_format
        return _Response(
            ReplyEvents(self._conversation_id, wanted, overrides.metadata, voice, output_format),
            due,
            instructions,
            self._limited(wanted),
            self._count_input(instructions),
            self._conversation.last_id or "root",
            Alignment() if spoken else None,
            Encoder(output_format),
        )

    def _limited(self, wanted: int | Literal["inf"]) -> Sampling:
        most = self._sampling.max_tokens
        return replace(self._sampling, max_tokens=most if wanted == "inf" else min(wanted, most))

    async def _generate(self, response: _Response, history: Sequence[Exchange]) -> None:
        response_id = response.events.response_id
        reply = self._context.reply(response.instructions, history, response.sampling)
        if response.alignment and self._speech:
            pieces = partial(speak, options=self._speech, pace=self._pace, clock=self._clock)
            await speak_reply(response_id, reply, pieces, self._report)
        else:
            await write_reply(response_id, reply, self._report)

    async def _open(self, response: _Response) -> None:
        """Make the assistant's message known, if it is not."""
        if response.item is None:
            response.item = Item(
                response.events.item_id, "assistant", status="in_progress", alignment=response.alignment
            )
            before = self._conversation.add(response.item, self._conversation.place_after(response.after))
            for event in response.events.open(before):
                await self._send(event)

    async def _end_generated(self, response: _Response, failure: str | None) -> None:
        if failure is not None:
            await self._end(response, "failed", failure=failure)
            return
        await self._open(response)  # a reply of no words is still a message
        if self._engine.count_tokens(response.events.text) >= response.sampling.max_tokens:
            await self._end(response, "incomplete", reason="max_output_tokens")
        else:
            await self._end(response, "completed")

    async def _end(
        self,
        response: _Response,
        ending: Ending,
        *,
        reason: str | None = None,
        failure: str | None = None,
    ) -> None:
        """Close the response and everything it opened; then turn to the one that is due."""
        self._active = None
        if response.task:
            response.task.cancel()
        if ending == "cancelled":
            self._pace.drop()
        elif response.item and response.alignment:
            await self._send_audio(response, response.encoder.flush())
        output_tokens = self._engine.count_tokens(response.events.text)
        if item := response.item:
            if item.alignment and ending == "cancelled":
                item.alignment.truncate(item.alignment.sent_ms)  # nobody can have heard more
            item.text = item.alignment.text if item.alignment else response.events.text
            item.tokens = self._engine.count_tokens(item.text)
            item.status = "completed" if ending == "completed" else "incomplete"
        spoken_tokens = round(SPOKEN_TOKENS_PER_S * response.seconds)
        usage, latency = _usage(*response.input_tokens, output_tokens, spoken_tokens), self._latency(response)
        for event in response.events.end(ending, usage=usage, reason=reason, failure=failure, latency=latency):
            await self._send(event)
        if self._due:
            due, self._due = self._due, None
            await self.answer(due)

    def _latency(self, response: _Response) -> dict[str, float | None]:
        wait_ms = response.due.vad_wait_ms
        spoken = {"first_sentence_ms": response.first_sentence_ms, "first_audio_ms": response.first_audio_ms}
        return {
            "vad_wait_ms": wait_ms,
            "first_token_ms": response.first_token_ms,
            **(spoken if response.alignment else {}),
            "total_ms": round((wait_ms or 0) + self._since_due_ms(response), 1),
        }

    def _since_due_ms(self, response: _Response) -> float:
        return round(1000 * (self._clock() - response.due.confirmed_s), 1)

    def _count_input(self, instructions: str) -> tuple[int, int]:
        """Tokens of text and of audio that a reply is made from, were nothing dropped."""
        items = self._conversation.items
        text = sum(item.tokens for item in items if item.role != "system")  # those are in the instructions
        seconds = sum(item.seconds for item in items if item.heard)
        return self._engine.count_tokens(instructions) + text, round(AUDIO_TOKENS_PER_S * seconds)


def _usage(heard_text: int, heard_audio: int, text_tokens: int, audio_tokens: int) -> dict[str, Any]:
    inputs, outputs = heard_text + heard_audio, text_tokens + audio_tokens
    return {
        "total_tokens": inputs + outputs,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "input_token_details": {"text_tokens": heard_text, "audio_tokens": heard_audio, "cached_tokens": 0},
        "output_token_details": {"text_tokens": text_tokens, "audio_tokens": audio_tokens},
    }
