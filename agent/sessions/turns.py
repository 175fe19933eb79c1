"""The turns of one conversation, from the first sound that the ear reports to the reply that is due.

Acts only when its session tells it to; `floor` decides what follows from speech, and it is done here. Whoever listens
or writes meanwhile reports to the session's mailbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent.hearing.ear import Ear, IdleTimeout, OpenUtterance, to_ms
from agent.hearing.turn_end import FIXED_MS, silence_ms
from agent.hearing.turns import SpeechLasted, SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError
from agent.protocol.settings import SessionSettings
from agent.protocol.turn_detection import Eagerness
from agent.sessions.attribution import Attribution
from agent.sessions.conversation import Item
from agent.sessions.floor import (
    Answer,
    Began,
    Commit,
    Dropped,
    Ended,
    Floor,
    FloorEffect,
    FloorEvent,
    Ignore,
    Known,
    Lasted,
    LetGo,
    Paused,
    Resume,
    Scene,
    SetAside,
    TakenOver,
    Tell,
    advance,
)
from agent.sessions.items import Items
from agent.sessions.response import ReplyDue, Surroundings
from agent.sessions.responses import Responses
from agent.sessions.transcripts import TranscriptEnded, Transcripts
from wavllm_core.engine.api import Engine, Exchange, Heard
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
class ReadAhead:
    """Report: the same in writing."""

    said: OpenUtterance
    samples: int
    heard: Heard
    text: str | None  # None: that failed


@dataclass(frozen=True, slots=True)
class HeardEarly:
    """Report: what was said so far, enough to tell whose voice it is."""

    said: OpenUtterance
    heard: Heard | None  # None: listening failed, likewise


TurnReport = HeardAhead | ReadAhead | HeardEarly


@dataclass(frozen=True, slots=True)
class _Turn:
    """One that is over."""

    said: OpenUtterance
    end_ms: int
    due: ReplyDue


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
        self._floor = Floor()
        self._owed: ReplyDue | None = None  # as soon as it is known what was said

    @property
    def settings(self) -> SessionSettings:
        """Of the session, as they are now."""
        return self._ear.settings

    async def take(self, happened: TurnEvent | IdleTimeout) -> None:
        """What the ear has found."""
        match happened:
            case SpeechStarted(start_sample):
                self._ear.begin(start_sample)
                await self._step(Began())
            case SpeechLasted():
                await self._step(Lasted())
            case SpeechPaused():
                self._speech_paused(happened)
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
            case ReadAhead():
                await self._take_read_ahead(report)
            case HeardEarly(said, heard) if heard:
                await self._who.tell_early(said.item_id, heard)

    async def take_transcript(self, ended: TranscriptEnded) -> None:
        """What was said in a turn that is over."""
        nothing = ended.failure is None and self.settings.interruption.is_nothing(ended.text)
        await self._step(Known(ended.item.id, words=not nothing))

    async def drop(self) -> None:
        """The client has taken away what was being said."""
        await self._step(Dropped())

    async def take_over(self) -> None:
        """The client has something answered itself."""
        await self._step(TakenOver())

    def label_early(self) -> None:
        """Once there is enough of a voice, have it compared, long before the turn is over."""
        said, told = self._ear.opened, self._floor.speech != "held"
        if said and told and not said.labelled and said.seconds >= ENOUGH_S and self.settings.speakers.policy != "off":
            said.labelled = True
            self._start(_hear_early(said), f"hear early {said.item_id}")

    def prepare(self) -> None:
        """Have the model read what was said, while nobody waits for it."""
        if self._responses.idle and self._transcripts.idle and self.settings.kind == "realtime":
            self._responses.prepare(self.settings)

    async def commit(
        self,
        said: OpenUtterance,
        due: ReplyDue,
        words: bool | None = None,
        then: Literal["answer", "resume", "wait"] = "answer",
    ) -> None:
        """Make a user item of an utterance, or several; answer the last where the server finds the turns."""
        pieces = [said] if words is False else await self._split(said)
        under_way = True
        try:
            for piece in pieces:
                item = Item(piece.item_id, "user", spoken=True, aside=words is False)
                await self._around.send(events.audio_committed(item.id, self._around.conversation.last_id))
                await self._items.add(item)
                failure = await self._items.hear(piece, item)
                if piece is pieces[-1] and self._answers_by_itself():
                    self._owed = replace(due, failure=failure or self._who.refusal_of(item))
                    if then == "answer":
                        await self._answer()
                under_way = await self._transcripts.begin(item, failure) and under_way
        finally:
            for piece in pieces:
                piece.utterance.cancel()
        if then == "wait" and not (under_way and pieces == [said]):  # several voices say something
            await self._step(Known(said.item_id, words=True))

    async def _step(self, event: FloorEvent, turn: _Turn | None = None) -> None:
        scene = self._scene()
        self._floor, effects = advance(scene, self._floor, event)
        for effect in effects:
            await self._carry_out(effect, scene, turn)

    def _scene(self) -> Scene:
        detection, interruption, responses = self.settings.turn_detection, self.settings.interruption, self._responses
        interrupts = detection is not None and detection.interrupt_response
        return Scene(
            interrupts=interrupts,
            holds=interrupts and interruption.hold_ms > 0,
            resumes=interrupts and interruption.resume and self._answers_by_itself(),
            replying=responses.replying,
            resumable=responses.resumable,
        )

    async def _carry_out(self, effect: FloorEffect, scene: Scene, turn: _Turn | None) -> None:
        match effect:
            case Tell():
                await self._tell(turn.said if turn else self._ear.opened, scene)
            case Ignore() if turn:
                turn.said.utterance.cancel()
                span = to_ms(turn.said.start_sample or 0), turn.end_ms
                await self._around.send(events.speech_ignored(turn.said.read[1] if turn.said.read else "", *span))
            case Commit(words, then) if turn:
                await self._around.send(events.speech_stopped(turn.said.item_id, turn.end_ms))
                await self.commit(turn.said, turn.due, words, then)
                if then == "resume":
                    await self._resume()
            case SetAside(item_id):
                if item := self._around.conversation.find(item_id):
                    item.aside, item.heard = True, None
            case Answer():
                await self._answer()
            case Resume():
                await self._resume()
            case LetGo():
                self._responses.let_go()

    async def _tell(self, said: OpenUtterance | None, scene: Scene) -> None:
        assert said and said.start_sample is not None
        await self._around.send(events.speech_started(said.item_id, to_ms(said.start_sample)))
        if scene.interrupts:
            await self._responses.interrupt(resumable=scene.resumes)
        self.prepare()

    async def _answer(self) -> None:
        due, self._owed = self._owed, None
        if due:
            await self._responses.answer(due)

    async def _resume(self) -> None:
        due, self._owed = self._owed, None
        if due:
            await self._responses.take_up(due)

    def _speech_paused(self, paused: SpeechPaused) -> None:
        """Use the wait for the end of the turn: what was said so far may be all."""
        said, detection = self._ear.opened, self.settings.turn_detection
        wanted = (self._answers_by_itself() and self._responses.idle) or (detection and detection.eagerness)
        if said and (wanted or self._floor.in_doubt) and not said.heard_ahead:
            said.heard_ahead, said.voiced_samples = True, paused.voiced_samples
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
        if heard and self._floor.in_doubt and not self._is_short(said.voiced_samples):
            self._start(_read_ahead(self._around.engine, ahead, heard), f"read ahead {said.item_id}")
        if heard:
            self._speculate(heard)
        detection = self.settings.turn_detection
        if detection and detection.eagerness:
            await self._judge(heard, detection.eagerness)

    async def _take_read_ahead(self, ahead: ReadAhead) -> None:
        """Words stop a reply that was going on; what is none is told apart at the end of the turn."""
        said = ahead.said
        if said.samples != ahead.samples or ahead.text is None:
            return
        said.read = ahead.samples, ahead.text
        if self._floor.speech == "held" and not self.settings.interruption.is_nothing(ahead.text):
            await self._step(Paused())
            self._speculate(ahead.heard)

    def _speculate(self, heard: Heard) -> None:
        guess = self._who.guess(heard)
        if self._answers_by_itself() and not self._who.refusal(guess):
            number = guess.number if guess else None
            self._responses.speculate(self.settings, Exchange(heard=heard, speaker=number))

    async def _judge(self, heard: Heard | None, eagerness: Eagerness) -> None:
        """What was said sounds finished, or not: that decides how long the pause has to last."""
        score = self._judge_turn_end
        pause_ms = silence_ms(eagerness, score(heard)) if score and heard else FIXED_MS
        if score is None and not self._unjudged:
            self._unjudged = True
            message = f"this model cannot tell a finished turn; each ends after {FIXED_MS} ms of silence"
            log.warning(message)
            degraded = ProtocolError("turn_detection_degraded", message)
            await self._around.send(events.error(degraded, kind="server_error"))
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
        turn = _Turn(said, to_ms(stopped.confirmed_sample), due)
        await self._step(Ended(said.item_id, self._has_words(said, stopped.voiced_samples)), turn)

    def _has_words(self, said: OpenUtterance, voiced_samples: int) -> bool | None:
        """None: nobody knows yet."""
        if self._is_short(voiced_samples):
            return False
        if said.read is None or said.read[0] != said.samples:
            return None
        return not self.settings.interruption.is_nothing(said.read[1])

    def _is_short(self, voiced_samples: int) -> bool:
        return to_ms(voiced_samples) < self.settings.interruption.short_ms

    async def _split(self, said: OpenUtterance) -> list[OpenUtterance]:
        """An utterance for each voice, where they are to be told apart within a turn."""
        changes = await self._who.find_changes(said.pcm)
        if not changes:
            return [said]
        said.utterance.cancel()
        return self._ear.cut(said, changes)


async def _hear_ahead(said: OpenUtterance, samples: int) -> HeardAhead:
    return HeardAhead(said, samples, await _heard(said))


async def _read_ahead(engine: Engine, ahead: HeardAhead, heard: Heard) -> ReadAhead:
    text: str | None = None
    with suppress(CoreError):
        async with aclosing(engine.transcribe(heard)) as pieces:
            text = "".join([piece async for piece in pieces]).strip()
    return ReadAhead(ahead.said, ahead.samples, heard, text)


async def _hear_early(said: OpenUtterance) -> HeardEarly:
    return HeardEarly(said, await _heard(said))


async def _heard(said: OpenUtterance) -> Heard | None:
    with suppress(CoreError):
        return await said.utterance.hear()
    return None
