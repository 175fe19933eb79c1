"""The turns of one conversation, from the first sound that the ear reports to the reply that is due.

Acts only when its session tells it to; whoever listens or thinks meanwhile reports to the session's mailbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.hearing.ear import Ear, IdleTimeout, OpenUtterance, to_ms
from agent.hearing.turn_end import FIXED_MS, silence_ms
from agent.hearing.turns import SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError
from agent.protocol.settings import SessionSettings
from agent.protocol.turn_detection import Eagerness
from agent.sessions.attribution import Attribution
from agent.sessions.conversation import Item
from agent.sessions.items import Items
from agent.sessions.response import ReplyDue, Surroundings
from agent.sessions.responses import Responses
from agent.sessions.transcripts import Transcripts
from wavllm_core.engine.api import Exchange, Heard
from wavllm_core.errors import CoreError

log = logging.getLogger(__name__)
ENOUGH_S: Final = 1.0  # of a voice, to tell whose it is


@dataclass(frozen=True, slots=True)
class HeardAhead:
    """Report: what was said up to a pause."""

    said: OpenUtterance
    samples: int  # of it then
    heard: Heard | None  # None: listening failed, which the end of the turn will tell


@dataclass(frozen=True, slots=True)
class HeardEarly:
    """Report: what was said so far, enough to tell whose voice it is."""

    said: OpenUtterance
    heard: Heard | None  # likewise


TurnReport = HeardAhead | HeardEarly


class Turns:
    """What is made of them."""

    def __init__(
        self,
        around: Surroundings,
        ear: Ear,
        who: Attribution,
        items: Items,
        transcripts: Transcripts,
        responses: Responses,
        start: Callable[[Coroutine[Any, Any, TurnReport], str], None],
        judge_turn_end: Callable[[Heard], float] | None,
    ) -> None:
        """start: has work done, under a name, and its result reported"""
        self._around, self._ear, self._who, self._items = around, ear, who, items
        self._transcripts, self._responses = transcripts, responses
        self._start, self._judge_turn_end = start, judge_turn_end
        self._unjudged = False  # the client was told that ends of turns cannot be judged

    @property
    def settings(self) -> SessionSettings:
        """Of the session, as they are now."""
        return self._ear.settings

    async def take(self, happened: TurnEvent | IdleTimeout) -> None:
        """What the ear has found."""
        match happened:
            case SpeechStarted():
                await self._speech_started(happened)
            case SpeechPaused():
                self._speech_paused()
            case SpeechStopped():
                await self._speech_stopped(happened)
            case IdleTimeout():
                await self._speak_up(happened)

    async def take_report(self, report: TurnReport) -> None:
        """What somebody heard meanwhile; nothing when it is about a turn that is over."""
        if self._ear.opened is not report.said:
            return
        match report:
            case HeardAhead():
                await self._take_heard_ahead(report)
            case HeardEarly(said, heard) if heard:
                await self._who.tell_early(said.item_id, heard)

    def label_early(self) -> None:
        """Once there is enough of a voice, have it compared, long before the turn is over."""
        said = self._ear.opened
        if said and not said.labelled and said.seconds >= ENOUGH_S and self.settings.speakers.policy != "off":
            said.labelled = True
            self._start(_hear_early(said), f"hear early {said.item_id}")

    def prepare(self) -> None:
        """Have the model read what was said, while nobody waits for it."""
        if self._responses.idle and self._transcripts.idle and self.settings.kind == "realtime":
            self._responses.prepare(self.settings)

    async def commit(self, said: OpenUtterance, due: ReplyDue) -> None:
        """Make a user item of an utterance, or several; answer the last where the server finds the turns."""
        pieces = await self._split(said)
        try:
            for piece in pieces:
                item = Item(piece.item_id, "user", spoken=True)
                await self._around.send(events.audio_committed(item.id, self._around.conversation.last_id))
                await self._items.add(item)
                failure = await self._items.hear(piece, item)
                if piece is pieces[-1] and self._answers_by_itself():
                    await self._responses.answer(replace(due, failure=failure or self._who.refusal_of(item)))
                await self._transcripts.begin(item, failure)
        finally:
            for piece in pieces:
                piece.utterance.cancel()

    async def _speech_started(self, started: SpeechStarted) -> None:
        await self._around.send(events.speech_started(self._ear.item_id, to_ms(started.start_sample)))
        if said := self._ear.opened:
            said.start_sample = started.start_sample
        detection = self.settings.turn_detection
        if detection and detection.interrupt_response:
            await self._responses.interrupt()
        self.prepare()

    def _speech_paused(self) -> None:
        """Use the wait for the end of the turn: what was said so far may be all."""
        said, detection = self._ear.opened, self.settings.turn_detection
        wanted = (self._answers_by_itself() and self._responses.idle) or (detection and detection.eagerness)
        if said and wanted and not said.heard_ahead:
            said.heard_ahead = True
            self._start(_hear_ahead(said, said.samples), f"hear ahead {said.item_id}")

    def _answers_by_itself(self) -> bool:
        """Whether a turn that the client did not ask about is answered."""
        detection = self.settings.turn_detection
        return self.settings.kind == "realtime" and detection is not None and detection.create_response

    async def _take_heard_ahead(self, ahead: HeardAhead) -> None:
        said, heard = ahead.said, ahead.heard
        said.heard_ahead = False
        if said.samples != ahead.samples:
            return
        if heard and self._answers_by_itself():
            guess = self._who.guess(heard)
            if not self._who.refusal(guess):
                number = guess.number if guess else None
                self._responses.speculate(self.settings, Exchange(heard=heard, speaker=number))
        detection = self.settings.turn_detection
        if detection and detection.eagerness:
            await self._judge(heard, detection.eagerness)

    async def _judge(self, heard: Heard | None, eagerness: Eagerness) -> None:
        """What was said sounds finished, or not: that decides how long the pause has to last."""
        score = self._judge_turn_end
        pause_ms = silence_ms(eagerness, score(heard)) if score and heard else FIXED_MS
        if score is None and not self._unjudged:
            self._unjudged = True
            message = f"this model cannot tell a finished turn; each ends after {FIXED_MS} ms of silence"
            log.warning("%s: %s", self._ear.item_id, message)
            await self._around.send(
                events.error(ProtocolError("turn_detection_degraded", message), kind="server_error")
            )
        if stopped := self._ear.wait(pause_ms):
            await self._speech_stopped(stopped)

    async def _speak_up(self, idle: IdleTimeout) -> None:
        """Answer silence, if nothing else is being answered."""
        if not self._responses.idle or self.settings.kind != "realtime":
            return
        item = Item(self._around.new_id("item"), "user", spoken=True)
        start_ms, end_ms = to_ms(idle.start_sample), to_ms(idle.end_sample)
        await self._around.send(events.timeout_triggered(item.id, start_ms, end_ms))
        await self._around.send(events.audio_committed(item.id, self._around.conversation.last_id))
        await self._items.add(item)
        await self._responses.answer(ReplyDue(self.settings, self._around.clock()))

    async def _speech_stopped(self, stopped: SpeechStopped) -> None:
        wait_ms = to_ms(stopped.confirmed_sample - stopped.last_voiced_sample)
        due = ReplyDue(self.settings, self._around.clock(), wait_ms)
        said = self._ear.take()
        await self._around.send(events.speech_stopped(said.item_id, to_ms(stopped.confirmed_sample)))
        await self.commit(said, due)

    async def _split(self, said: OpenUtterance) -> list[OpenUtterance]:
        """An utterance for each voice, where they are to be told apart within a turn."""
        changes = await self._who.find_changes(said.pcm)
        if not changes:
            return [said]
        said.utterance.cancel()
        return self._ear.cut(said, changes)


async def _hear_ahead(said: OpenUtterance, samples: int) -> HeardAhead:
    return HeardAhead(said, samples, await _heard(said))


async def _hear_early(said: OpenUtterance) -> HeardEarly:
    return HeardEarly(said, await _heard(said))


async def _heard(said: OpenUtterance) -> Heard | None:
    with suppress(CoreError):
        return await said.utterance.hear()
    return None
