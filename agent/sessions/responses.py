"""The replies of one conversation: at most one under way in it, some more beside it, each closed exactly once.

Acts only when its session tells it to. The model is asked in a task of `generation`, which reports to the session's
mailbox; a report for a response that is over is dropped here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from agent.protocol.errors import ProtocolError
from agent.protocol.replies import Ending, ReplyEvents
from agent.protocol.server_events import error, item_truncated, playback
from agent.protocol.settings import SessionSettings
from agent.sessions.conversation import Item
from agent.sessions.cut import Cut
from agent.sessions.draft import Draft
from agent.sessions.functions import FunctionEnded, Functions
from agent.sessions.generation import (
    ReplyBegun,
    ReplyCall,
    ReplyEnded,
    ReplyPiece,
    ReplyReport,
    SpokenPiece,
    begin_with,
    quote,
    read_reply,
    speak_reply,
    write_reply,
)
from agent.sessions.planning import Planning, ReplyOptions
from agent.sessions.response import ReplyDue, ReplyPlan, Response, Surroundings
from agent.sessions.tool_calls import Call, PlainReader
from agent.speech.speaking import AudioChunk, Pace, Spoken, speak
from agent.speech.voice import BYTES_PER_S
from agent.voices.naming import name_speakers
from wavllm_core.engine.api import Context, Exchange
from wavllm_core.errors import CapacityError

MAX_BESIDE: Final = 4  # responses out of band at a time
MAX_ROUNDS: Final = 8  # of calls that one response may have the server carry out

log = logging.getLogger(__name__)


class Responses:
    """Asks the model, and says in events what becomes of it."""

    def __init__(
        self,
        context: Context,
        options: ReplyOptions,
        tasks: asyncio.TaskGroup,
        report: Callable[[ReplyReport], Awaitable[None]],
        around: Surroundings,
        functions: Functions,
        timer: Callable[[], float],
    ) -> None:
        """timer: the clock that audio is paced by"""
        self._context, self._options, self._around = context, options, around
        self._tasks, self._report, self._functions, self._timer = tasks, report, functions, timer
        self._planning = Planning(options, around, functions.offered)
        self._conversation_id = around.new_id("conv")
        self._active: Response | None = None
        self._beside: dict[str, Response] = {}  # out of band
        self._due: ReplyDue | None = None  # while another is active
        self._pace = self._new_pace()  # of all replies in the conversation: one may still be heard
        self._playing = Pace(0)  # the same by the clock of the session: what the client still has to play
        self._sounding: Response | None = None  # the newest, where it is over and may still be heard
        self._cut: Cut | None = None  # that may be taken up again
        self._voice_failed = False  # and the client was told
        self.was_heard = False  # the voice, by the client
        self._played: Item | None = None  # whose playing the client tells of
        self._truncated_id: str | None = None  # of the newest response, where truncating has ended it

    @property
    def idle(self) -> bool:
        """Nothing is under way or due in the conversation."""
        return self._active is None

    @property
    def left_s(self) -> float:
        """How long the client still plays what was sent."""
        return self._playing.left_s(self._around.clock())

    @property
    def replying(self) -> bool:
        """A reply is under way in the conversation, or can still be heard."""
        return not self.idle or self.left_s > 0

    @property
    def resumable(self) -> bool:
        """There is a reply to be taken up again, or would be after an interruption."""
        return bool(self._active or self._cut or (self._sounding and self.left_s > 0))

    @property
    def writes_on(self) -> bool:
        """The model is still at a reply that was broken off."""
        return self._cut is not None and not self._cut.response.draft.ended

    @property
    def all_done(self) -> bool:
        """Nothing is under way beside the conversation either."""
        return self.idle and not self._beside

    def speculate(self, settings: SessionSettings, exchange: Exchange) -> None:
        """Have the model answer what is probably the end of a turn, so that `answer` finds it done."""
        if self._active:
            return
        self._context.speculate(*self._planning.guess(settings, exchange))

    def prepare(self, settings: SessionSettings) -> None:
        """Have the model read what was said, while nobody waits for it."""
        self._context.prepare(*self._planning.past(settings))

    def check(self, due: ReplyDue) -> None:
        """Raises ProtocolError when what the client asks for cannot be."""
        asked = due.overrides
        self._planning.check(due)
        if asked.out_of_band and len(self._beside) >= MAX_BESIDE:
            message = f"{MAX_BESIDE} responses outside the conversation are under way already"
            raise ProtocolError("too_many_responses", message, param="response.conversation")
        if not asked.out_of_band and self._active:
            message = f"response {self._active.id} is still active; cancel it first"
            raise ProtocolError("conversation_already_has_active_response", message)

    async def create(self, due: ReplyDue) -> None:
        """Answer because the client asks, as `check` has found possible."""
        if not due.overrides.out_of_band:
            await self.answer(due)
            return
        response = self._new_response(self._planning.plan(due), None, self._new_pace())
        self._beside[response.id] = response
        await self._begin(response)

    async def answer(self, due: ReplyDue) -> None:
        """Answer now, or when the response under way is over."""
        if self._active:
            self._due = due
            return
        self.let_go()
        self._active = response = self._new_response(self._planning.plan(due), self._conversation_id, self._pace)
        await self._begin(response)

    async def cancel(self, response_id: str | None) -> None:
        """Stop because the client asks. Raises ProtocolError when that response is not active.

        Of one that the client has ended by truncating it, that was only said twice.
        """
        response = self._active if response_id is None else self._find(response_id)
        if response is None and self._truncated_id and response_id in (None, self._truncated_id):
            return
        if response is None:
            which = f"response {response_id}" if response_id else "no response"
            raise ProtocolError("response_cancel_not_active", f"{which} is active", param="response_id")
        await self._end(response, "cancelled", reason="client_cancelled")

    async def interrupt(self, *, resumable: bool = False) -> None:
        """Stop, if there is anything to stop, because somebody speaks.

        resumable: it may turn out that nothing was said; until `take_up` or `let_go` the model may write on
        """
        left_s, response = self.left_s, self._active
        calling = response is not None and not response.busy
        self._pace.drop()
        if response:
            self._due = None
            await self._end(response, "cancelled", reason="turn_detected", keep_draft=resumable)
        elif left_s > 0:
            response = self._sounding
        self._playing.drop()
        if response or not resumable:
            self.let_go()
        if response and resumable:
            self._cut = Cut.of(response, left_s, calling=calling)
        self._sounding = None
        item, self._played = self._played, None
        if item and item.alignment and item in self._around.conversation.items:
            played_ms = item.alignment.played_ms or 0
            if played_ms < item.alignment.sent_ms:
                await self.truncate(item.id, played_ms)

    async def take_up(self, due: ReplyDue) -> None:
        """Go on with what was broken off, if anything is left of it, in a new response."""
        cut, conversation = self._cut, self._around.conversation
        if cut is None or self._active or not cut.is_kept(conversation.items):
            self.let_go()
            return
        if unheard := cut.unheard:
            await self.truncate(*unheard)
        if plan := cut.plan_rest(due, conversation.last_id or "root"):
            self._cut = None
            self._active = response = self._new_response(plan, self._conversation_id, self._pace, cut.response)
            await self._begin(response)
        elif cut.calling:
            await self.answer(due)
        else:
            self.let_go()

    def let_go(self) -> None:
        """What was broken off is not going to be taken up again."""
        if self._cut:
            self._cut.response.draft.drop()
            self._cut = None

    async def abandon(self, why: str) -> None:
        """End all that is under way: the session is over."""
        self._due = None
        self.let_go()
        for response in [self._active, *self._beside.values()]:
            if response:
                await self._end(response, "failed", failure=why)

    async def acknowledge(self, item_id: str, played_ms: int) -> None:
        """Note how much of a reply was played; an interruption takes the rest back. Raises ProtocolError."""
        self._played = item = self._around.conversation.acknowledge(item_id, played_ms)
        assert item.alignment
        sent_ms, played_ms = item.alignment.sent_ms, item.alignment.played_ms or 0
        ledger = {
            "generated_ms": item.alignment.generated_ms,
            "sent_ms": sent_ms,
            "played_ms": played_ms,
            "committed_ms": played_ms if item.status == "in_progress" else sent_ms,
        }
        await self._around.send(playback(item_id, **ledger))

    async def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Forget the words of a spoken reply that were not heard, and speak no more of it.

        Raises ProtocolError when there is no such reply, or less of it.
        """
        item, response = self._around.conversation.truncate(item_id, audio_end_ms), self._active
        if item.alignment:
            audio_end_ms = min(audio_end_ms, item.alignment.sent_ms)
        item.tokens = self._around.engine.count_tokens(item.text)
        self._pace.drop()
        self._playing.drop()
        if response and response.item is item:
            self._truncated_id = response.id
            await self._end(response, "cancelled", reason="client_cancelled")
        await self._around.send(item_truncated(item_id, audio_end_ms))

    async def resume(self) -> None:
        """Have the model go on, where the server has answered the calls and all that was said is in writing."""
        response = self._active
        if response is None or not response.rounds or response.pending or response.busy:
            return
        if response.asks_client:
            self._forget(response)
            await response.complete()
            await self._go_on()
        elif response.rounds == MAX_ROUNDS:
            why = f"the model called functions {MAX_ROUNDS} times in a row; it is not asked again"
            await self._end(response, "failed", failure=why)
        elif response.tokens >= response.plan.sampling.max_tokens:
            await self._end(response, "incomplete", reason="max_output_tokens")
        else:
            response.renew(self._planning.plan(response.plan.due, [*response.plan.items, *response.take_made()]))
            self._ask(response)

    async def take(self, report: ReplyReport | FunctionEnded) -> None:
        """Pass on what the model said, or the server did; nothing when that response is over."""
        response = self._find(report.response_id)
        if response is None:
            return
        match report:
            case ReplyPiece():
                await response.write(report.text)
            case ReplyBegun():
                response.note("first_token_ms")
            case SpokenPiece():
                self._note_audio(response, report.spoken)
                if why := await response.speak(report.spoken):
                    await self._tell_voice_lost(response, why)
                report.taken.set()
            case ReplyCall():
                await self._take_call(response, report.call)
            case FunctionEnded():
                await response.answer(report.call_id, report.outcome)
            case ReplyEnded() if response.pending and not report.failure:
                response.busy, response.rounds = False, response.rounds + 1
                work = self._functions.carry_out(response.id, [*response.pending.values()])
                response.task = self._tasks.create_task(work, name=f"functions of {response.id}")
            case ReplyEnded():
                self._forget(response)
                await (response.end("failed", failure=report.failure) if report.failure else response.complete())
                await self._go_on()

    async def _take_call(self, response: Response, call: Call) -> None:
        calling = self._functions.judge(call, response.plan.asker)
        if calling.refusal and response.out_of_band:  # it has no history to go on from
            await self._end(response, "failed", failure=calling.refusal)
        else:
            await response.call(calling)

    def _find(self, response_id: str) -> Response | None:
        if self._active and self._active.id == response_id:
            return self._active
        return self._beside.get(response_id)

    async def _begin(self, response: Response) -> None:
        self._truncated_id = None
        await response.begin()
        if (failure := response.plan.due.failure) is not None:
            await self._end(response, "failed", failure=failure)
            return
        if response.draft.writer:  # what was written before is told to its end
            self._tell(response)
            return
        response.context = self._open_context() if response.out_of_band else self._context
        self._ask(response)

    def _ask(self, response: Response) -> None:
        """Have the model write, for the first time or when the server has answered its calls."""
        response.context = context = response.context or self._context
        work = response.draft.write(self._written(response, context))
        response.draft.writer = writer = self._tasks.create_task(work, name=f"write {response.id}")
        if context is not self._context:
            writer.add_done_callback(lambda _: context.close())
        self._tell(response)

    def _tell(self, response: Response) -> None:
        """Tell what is written while it is."""
        response.busy = True
        plan, draft = response.plan, response.draft
        if plan.speech:
            pieces = partial(speak, options=plan.speech, pace=response.pace, clock=self._timer)
            work = speak_reply(response.id, draft, plan.told, pieces, self._report)
        else:
            work = write_reply(response.id, draft, plan.told, self._report)
        response.task = self._tasks.create_task(work, name=f"reply {response.id}")

    def _open_context(self) -> Context:
        """For a response out of band; where there is no room, it waits for the conversation's own replies."""
        try:
            return self._around.engine.open_context()
        except CapacityError:
            return self._context

    def _written(self, response: Response, context: Context) -> AsyncGenerator[str | Call, None]:
        plan = response.plan
        caller, given = self._options.caller, plan.given
        reader = caller.reader(plan.tools) if caller and plan.tools and given is None else PlainReader()
        sampling = replace(plan.sampling, max_tokens=plan.sampling.max_tokens - response.tokens)
        written = context.reply(plan.instructions, plan.history, sampling) if given is None else quote(given)
        if given is None and sampling.begins:
            written = begin_with(sampling.begins, written)
        names = self._around.conversation.names
        asked = name_speakers(written, names) if names and given is None else written
        return read_reply(asked, reader, parallel_calls=plan.parallel_calls)

    def _note_audio(self, response: Response, spoken: Spoken) -> None:
        if isinstance(spoken, AudioChunk):
            self.was_heard = True
            if not response.out_of_band:
                self._playing.sent(self._around.clock(), len(spoken.pcm) / BYTES_PER_S)

    async def _end(
        self,
        response: Response,
        ending: Ending,
        *,
        reason: str | None = None,
        failure: str | None = None,
        keep_draft: bool = False,
    ) -> None:
        """Close a response, and turn to the one that is due."""
        self._forget(response)
        if ending == "cancelled" and not response.out_of_band:
            self._playing.drop()
        await response.end(ending, reason=reason, failure=failure, keep_draft=keep_draft)
        await self._go_on()

    def _forget(self, response: Response) -> None:
        if response is self._active:
            spoken = response.message is not None and response.message.alignment is not None
            self._active, self._sounding = None, response if spoken else None
        else:
            del self._beside[response.id]

    async def _go_on(self) -> None:
        if self._due and not self._active:
            due, self._due = self._due, None
            await self.answer(due)

    async def _tell_voice_lost(self, response: Response, why: str) -> None:
        if not self._voice_failed:
            self._voice_failed = True
            log.warning("%s is not spoken: %s", response.id, why)
            message = f"replies go on in writing where they cannot be spoken: {why}"
            await self._around.send(error(ProtocolError("voice_failed", message), kind="server_error"))

    def _new_response(
        self, plan: ReplyPlan, conversation_id: str | None, pace: Pace, resumed: Response | None = None
    ) -> Response:
        due, asked = plan.due, plan.due.overrides
        events = ReplyEvents(
            self._around.new_id("resp"),
            conversation_id,
            asked.max_output_tokens or due.settings.max_output_tokens,
            asked.metadata,
            plan.speech.voice.name if plan.speech else None,
            asked.output_format or due.settings.output_format,
            resumed.id if resumed else None,
        )
        return Response(events, plan, resumed.draft if resumed else Draft(), pace, self._around)

    def _new_pace(self) -> Pace:
        return Pace(self._options.speech.lead_s if self._options.speech else 0)
