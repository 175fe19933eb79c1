"""The replies of one conversation: at most one under way, each closed exactly once.

Acts only when its session tells it to. The model is asked in a task that knows nothing but its question and
reports to the session's mailbox; a report for a response that is over is dropped here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agent.conversation import Conversation, Item
from agent.protocol.client_events import ResponseCreate
from agent.protocol.errors import ProtocolError
from agent.protocol.replies import Ending, ReplyEvents
from agent.protocol.server_events import ServerEvent, new_id
from agent.protocol.settings import SessionSettings
from wavllm_core.engine.api import Context, Engine, Exchange, Sampling
from wavllm_core.errors import CoreError

AUDIO_TOKENS_PER_S: Final = 12.5


@dataclass(frozen=True, slots=True)
class ReplyDue:
    """Why and since when a reply is owed."""

    settings: SessionSettings  # as they were then
    confirmed_s: float  # wall clock
    vad_wait_ms: int | None = None  # stream time; None where the client ended the turn
    overrides: ResponseCreate = field(default_factory=ResponseCreate)
    failure: str | None = None  # there is nothing to answer, because listening failed


@dataclass(frozen=True, slots=True)
class ReplyPiece:
    """Report: more text."""

    response_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """Report: no more text."""

    response_id: str
    failure: str | None


@dataclass(slots=True, eq=False)
class _Response:
    """The one under way."""

    events: ReplyEvents
    due: ReplyDue
    instructions: str
    sampling: Sampling
    input_tokens: tuple[int, int]  # text, audio
    after: str  # the item it answers, whatever is added meanwhile; "root": none
    task: asyncio.Task[None] | None = None
    item: Item | None = None  # once there is text
    first_token_ms: float | None = None


class Responses:
    """Asks the model, and says in events what becomes of it."""

    def __init__(
        self,
        engine: Engine,
        context: Context,
        conversation: Conversation,
        sampling: Sampling,
        tasks: asyncio.TaskGroup,
        report: Callable[[ReplyPiece | ReplyEnded], Awaitable[None]],
        send: Callable[[ServerEvent], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._context = engine, context
        self._conversation, self._sampling = conversation, sampling
        self._tasks, self._report, self._send, self._clock = tasks, report, send, clock
        self._conversation_id = new_id("conv")
        self._active: _Response | None = None
        self._due: ReplyDue | None = None  # while another is active

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
        """Answer because the client asks. Raises ProtocolError while a response is active."""
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
        if self._active:
            self._due = None
            await self._end(self._active, "cancelled", reason="turn_detected")

    async def take(self, report: ReplyPiece | ReplyEnded) -> None:
        """Pass on what the model said; nothing when that response is over."""
        response = self._active
        if response is None or response.events.response_id != report.response_id:
            return
        if isinstance(report, ReplyEnded):
            await self._end_generated(response, report.failure)
            return
        await self._open(response)
        await self._send(response.events.piece(report.text))
        if response.first_token_ms is None:
            response.first_token_ms = 1000 * (self._clock() - response.due.confirmed_s)

    def _new_response(self, due: ReplyDue) -> _Response:
        settings, overrides = due.settings, due.overrides
        wanted = overrides.max_output_tokens or settings.max_output_tokens
        own = settings.instructions if overrides.instructions is None else overrides.instructions
        instructions = self._conversation.instructions(own)
        return _Response(
            ReplyEvents(self._conversation_id, wanted, overrides.metadata),
            due,
            instructions,
            self._limited(wanted),
            self._count_input(instructions),
            self._conversation.last_id or "root",
        )

    def _limited(self, wanted: int | Literal["inf"]) -> Sampling:
        most = self._sampling.max_tokens
        return replace(self._sampling, max_tokens=most if wanted == "inf" else min(wanted, most))

    async def _generate(self, response: _Response, history: Sequence[Exchange]) -> None:
        response_id, failure = response.events.response_id, None
        reply = self._context.reply(response.instructions, history, response.sampling)
        try:
            async with aclosing(reply) as pieces:
                async for piece in pieces:
                    await self._report(ReplyPiece(response_id, piece))
        except CoreError as error:
            failure = str(error)
        await self._report(ReplyEnded(response_id, failure))

    async def _open(self, response: _Response) -> None:
        """Make the assistant's message known, if it is not."""
        if response.item is None:
            response.item = Item(response.events.item_id, "assistant", status="in_progress")
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
        output_tokens = self._engine.count_tokens(response.events.text)
        if response.item:
            response.item.text, response.item.tokens = response.events.text, output_tokens
            response.item.status = "completed" if ending == "completed" else "incomplete"
        usage, latency = _usage(*response.input_tokens, output_tokens), self._latency(response)
        for event in response.events.end(ending, usage=usage, reason=reason, failure=failure, latency=latency):
            await self._send(event)
        if self._due:
            due, self._due = self._due, None
            await self.answer(due)

    def _latency(self, response: _Response) -> dict[str, float | None]:
        spent_ms = 1000 * (self._clock() - response.due.confirmed_s)
        first_ms, wait_ms = response.first_token_ms, response.due.vad_wait_ms
        return {
            "vad_wait_ms": wait_ms,
            "first_token_ms": None if first_ms is None else round(first_ms, 1),
            "total_ms": round((wait_ms or 0) + spent_ms, 1),
        }

    def _count_input(self, instructions: str) -> tuple[int, int]:
        """Tokens of text and of audio that a reply is made from, were nothing dropped."""
        items = self._conversation.items
        text = sum(item.tokens for item in items if item.role != "system")  # those are in the instructions
        seconds = sum(item.seconds for item in items if item.heard)
        return self._engine.count_tokens(instructions) + text, round(AUDIO_TOKENS_PER_S * seconds)


def _usage(text_tokens: int, audio_tokens: int, output_tokens: int) -> dict[str, Any]:
    inputs = text_tokens + audio_tokens
    return {
        "total_tokens": inputs + output_tokens,
        "input_tokens": inputs,
        "output_tokens": output_tokens,
        "input_token_details": {"text_tokens": text_tokens, "audio_tokens": audio_tokens, "cached_tokens": 0},
        "output_token_details": {"text_tokens": output_tokens, "audio_tokens": 0},
    }
