"""The replies of one conversation: at most one under way in it, some more beside it, each closed exactly once.

Acts only when its session tells it to; `stage` decides which response begins and which ends, and it is done here. The
model is asked in tasks of `writing`, which report to the session's mailbox; a report for a response that is over is
dropped here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from agent.protocol.errors import ProtocolError
from agent.protocol.replies import Ending, ReplyEvents
from agent.protocol.server_events import error, item_truncated, playback
from agent.protocol.settings import SessionSettings
from agent.sessions import stage
from agent.sessions.conversation import Item
from agent.sessions.cut import Cut
from agent.sessions.draft import Draft
from agent.sessions.functions import FunctionEnded, Functions
from agent.sessions.generation import ReplyBegun, ReplyCall, ReplyEnded, ReplyPiece, ReplyReport, SpokenPiece
from agent.sessions.planning import Planning, ReplyOptions
from agent.sessions.response import ReplyDue, ReplyPlan, Response, Surroundings
from agent.sessions.stage import (
    Abandoned,
    Asked,
    Begin,
    Cancelled,
    End,
    Hush,
    Keep,
    LetGo,
    Over,
    Settled,
    SpokenInto,
    Stage,
    StageEffect,
    StageEvent,
    TakenUp,
    Truncated,
)
from agent.sessions.tool_calls import Call
from agent.sessions.writing import Writing
from agent.speech.speaking import AudioChunk, Pace, Spoken
from agent.speech.voice import BYTES_PER_S
from wavllm_core.engine.api import Context, Exchange

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
        self._tasks, self._functions = tasks, functions
        self._planning = Planning(options, around, functions.offered)
        self._writing = Writing(context, tasks, report, around, timer)
        self._conversation_id = around.new_id("conv")
        self._stage = Stage()
        self._responses: dict[str, Response] = {}  # under way, or still to be heard
        self._pace = self._new_pace()  # of all replies in the conversation: one may still be heard
        self._playing = Pace(0)  # the same by the clock of the session: what the client still has to play
        self._cut: Cut | None = None  # what is known of the one that is kept
        self._voice_failed = False  # and the client was told
        self.was_heard = False  # the voice, by the client
        self._played: Item | None = None  # whose playing the client tells of

    @property
    def idle(self) -> bool:
        """Nothing is under way or due in the conversation."""
        return self._stage.active is None

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
        return bool(self._stage.active or self._stage.kept or (self._stage.sounding and self.left_s > 0))

    @property
    def writes_on(self) -> bool:
        """The model is still at a reply that was broken off."""
        return self._cut is not None and not self._cut.response.draft.ended

    @property
    def all_done(self) -> bool:
        """Nothing is under way beside the conversation either."""
        return not self._stage.under_way

    def speculate(self, settings: SessionSettings, exchange: Exchange) -> None:
        """Have the model answer what is probably the end of a turn, so that `answer` finds it done."""
        if self.idle:
            self._context.speculate(*self._planning.guess(settings, exchange))

    def prepare(self, settings: SessionSettings) -> None:
        """Have the model read what was said, while nobody waits for it."""
        self._context.prepare(*self._planning.past(settings))

    def check(self, due: ReplyDue) -> None:
        """Raises ProtocolError when what the client asks for cannot be."""
        self._planning.check(due)
        stage.check(self._stage, beside=due.overrides.out_of_band)

    async def answer(self, due: ReplyDue) -> None:
        """Answer now, or when the response under way is over; beside the conversation in any case now."""
        await self._step(Asked(self._around.new_id("resp"), due))

    async def cancel(self, response_id: str | None) -> None:
        """Stop because the client asks. Raises ProtocolError when that response is not active.

        Of one that the client has ended by truncating it, that was only said twice.
        """
        await self._step(Cancelled(response_id))

    async def interrupt(self, *, resumable: bool = False) -> None:
        """Stop, if there is anything to stop, because somebody speaks.

        resumable: it may turn out that nothing was said; until `take_up` or `let_go` the model may write on
        """
        active = self._find(self._stage.active)
        await self._step(SpokenInto(resumable, self.left_s, calling=active is not None and not active.busy))
        item, self._played = self._played, None
        if item and item.alignment and item in self._around.conversation.items:
            played_ms = item.alignment.played_ms or 0
            if played_ms < item.alignment.sent_ms:
                await self.truncate(item.id, played_ms)

    async def take_up(self, due: ReplyDue) -> None:
        """Go on with what was broken off, if anything is left of it, in a new response."""
        cut, conversation = self._cut, self._around.conversation
        if cut is None or not self.idle or not cut.is_kept(conversation.items):
            await self.let_go()
            return
        if unheard := cut.unheard:
            await self.truncate(*unheard)
        if plan := cut.plan_rest(due, conversation.last_id or "root"):
            await self._step(TakenUp(self._around.new_id("resp"), plan))
        elif cut.calling:
            await self.answer(due)
        else:
            await self.let_go()

    async def let_go(self) -> None:
        """What was broken off is not going to be taken up again."""
        await self._step(Settled())

    async def abandon(self, why: str) -> None:
        """End all that is under way: the session is over."""
        await self._step(Abandoned(why))

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
        item, active = self._around.conversation.truncate(item_id, audio_end_ms), self._find(self._stage.active)
        if item.alignment:
            audio_end_ms = min(audio_end_ms, item.alignment.sent_ms)
        item.tokens = self._around.engine.count_tokens(item.text)
        self._pace.drop()
        self._playing.drop()
        if active and active.item is item:
            await self._step(Truncated(active.id))
        await self._around.send(item_truncated(item_id, audio_end_ms))

    async def resume(self) -> None:
        """Have the model go on, where the server has answered the calls and all that was said is in writing."""
        response = self._find(self._stage.active)
        if response is None or not response.rounds or response.pending or response.busy:
            return
        if response.asks_client:
            await self._over(response)
        elif response.rounds == MAX_ROUNDS:
            why = f"the model called functions {MAX_ROUNDS} times in a row; it is not asked again"
            await self._over(response, failure=why)
        elif response.tokens >= response.plan.sampling.max_tokens:
            await self._step(Over(response.id, "incomplete", "max_output_tokens", spoken=response.spoken))
        else:
            response.renew(self._planning.plan(response.plan.due, [*response.plan.items, *response.take_made()]))
            self._writing.ask(response)

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
                await self._over(response, failure=report.failure)

    async def _take_call(self, response: Response, call: Call) -> None:
        calling = self._functions.judge(call, response.plan.asker)
        if calling.refusal and response.out_of_band:  # it has no history to go on from
            await self._over(response, failure=calling.refusal)
        else:
            await response.call(calling)

    async def _over(self, response: Response, failure: str | None = None) -> None:
        ending: Ending = "completed" if failure is None else "failed"
        await self._step(Over(response.id, ending, failure=failure, spoken=response.spoken))

    async def _step(self, event: StageEvent) -> None:
        self._stage, effects = stage.advance(self._stage, event)
        for effect in effects:
            await self._carry_out(effect)
        known = self._stage.under_way | {self._stage.sounding}
        self._responses = {name: response for name, response in self._responses.items() if name in known}

    async def _carry_out(self, effect: StageEffect) -> None:
        match effect:
            case Begin(response_id, what):
                await self._begin(response_id, what, self._cut.response if effect.resumes and self._cut else None)
            case End(response_id):
                await self._end(self._responses[response_id], effect)
            case Hush():
                self._pace.drop()
                self._playing.drop()
            case Keep(response_id):
                self._cut = Cut.of(self._responses[response_id], effect.left_s, calling=effect.calling)
            case LetGo() if self._cut:
                self._cut.response.draft.drop()
                self._cut = None

    def _find(self, response_id: str | None) -> Response | None:
        """One that is under way."""
        return self._responses[response_id] if response_id and response_id in self._stage.under_way else None

    async def _begin(self, response_id: str, what: ReplyDue | ReplyPlan, resumed: Response | None) -> None:
        plan = what if isinstance(what, ReplyPlan) else self._planning.plan(what)
        due, asked = plan.due, plan.due.overrides
        events = ReplyEvents(
            response_id,
            None if asked.out_of_band else self._conversation_id,
            asked.max_output_tokens or due.settings.max_output_tokens,
            asked.metadata,
            plan.speech.voice.name if plan.speech else None,
            asked.output_format or due.settings.output_format,
            resumed.id if resumed else None,
        )
        pace = self._new_pace() if asked.out_of_band else self._pace
        response = Response(events, plan, resumed.draft if resumed else Draft(), pace, self._around)
        self._responses[response_id] = response
        if resumed:
            self._cut = None  # its draft is told by the new one
        await response.begin()
        if due.failure is None:
            self._writing.begin(response)

    async def _end(self, response: Response, end: End) -> None:
        if end.ending == "completed":
            await response.complete()
            return
        if end.ending == "cancelled" and not response.out_of_band:
            self._playing.drop()
        await response.end(end.ending, reason=end.reason, failure=end.failure, keep_draft=end.keep_draft)

    def _note_audio(self, response: Response, spoken: Spoken) -> None:
        if isinstance(spoken, AudioChunk):
            self.was_heard = True
            if not response.out_of_band:
                self._playing.sent(self._around.clock(), len(spoken.pcm) / BYTES_PER_S)

    async def _tell_voice_lost(self, response: Response, why: str) -> None:
        if not self._voice_failed:
            self._voice_failed = True
            log.warning("%s is not spoken: %s", response.id, why)
            message = f"replies go on in writing where they cannot be spoken: {why}"
            await self._around.send(error(ProtocolError("voice_failed", message), kind="server_error"))

    def _new_pace(self) -> Pace:
        return Pace(self._options.speech.lead_s if self._options.speech else 0)
