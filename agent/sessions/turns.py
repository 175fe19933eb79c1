"""The turns of one conversation, from the first sound that the ear reports to the reply that is due.

Acts only when its session tells it to; `floor` decides what follows from speech, and it is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.hearing.ear import Ear, IdleTimeout, OpenUtterance, to_ms
from agent.hearing.turns import SpeechLasted, SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from agent.hearing.vad import SAMPLE_RATE
from agent.protocol import server_events as events
from agent.protocol.settings import SessionSettings
from agent.sessions.ahead import Ahead, HeardAhead, HeardEarly, ReadAhead, TurnReport
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
    Resume,
    Scene,
    SetAside,
    TakenOver,
    Tell,
    Worded,
    advance,
)
from agent.sessions.items import Items
from agent.sessions.response import ReplyDue, Surroundings
from agent.sessions.responses import Responses
from agent.sessions.transcripts import TranscriptEnded, Transcripts


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
        ahead: Ahead,
    ) -> None:
        self._around, self._ear, self._who, self._items = around, ear, who, items
        self._transcripts, self._responses, self._ahead = transcripts, responses, ahead
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
                self._ahead.pause(happened, in_doubt=self._floor.in_doubt)
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
                if stopped := await self._ahead.take_heard(report, in_doubt=self._floor.in_doubt):
                    await self._speech_stopped(stopped)
            case ReadAhead():
                if self._ahead.take_read(report) and self._floor.in_doubt:
                    kept_busy = self._floor.speech == "held" or self._responses.writes_on
                    await self._step(Worded())
                    if kept_busy:
                        self._ahead.speculate(report.heard)
            case HeardEarly():
                await self._ahead.take_early(report)

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
        """Have the voice compared that is speaking, unless nobody was told that one is."""
        if self._floor.speech != "held":
            self._ahead.label()

    def prepare(self) -> None:
        """Have the model read what was said, while nobody waits for it."""
        if self._responses.idle and self._transcripts.idle and self.settings.kind == "realtime":
            self._responses.prepare(self.settings)

    def expect_speech(self) -> None:
        """From when the client has played all, silence is noticed, if nothing else is under way."""
        if self._responses.idle:
            self._ear.expect_speech(round(SAMPLE_RATE * self._responses.left_s))

    async def commit(
        self,
        said: OpenUtterance,
        due: ReplyDue,
        words: bool | None = None,
        then: Literal["answer", "resume", "wait"] = "answer",
    ) -> None:
        """Make a user item of an utterance, or several; answer the last where the server finds the turns.

        words: False: there are none, so the model is not shown the item
        """
        changes = [] if words is False else await self._who.find_changes(said.pcm)
        under_way = True
        for number, piece in enumerate(self._pieces(said, changes)):
            try:
                item = Item(piece.item_id, "user", spoken=True, aside=words is False)
                await self._around.send(events.audio_committed(item.id, self._around.conversation.last_id))
                await self._items.add(item)
                failure = await self._items.hear(piece, item)
                if number == len(changes) and self.settings.answers_by_itself:
                    self._owed = replace(due, failure=failure or self._who.refusal_of(item))
                    if then == "answer":
                        await self._answer()
                text = piece.read[1] if item.aside and piece.read else ""
                under_way = await self._transcripts.begin(item, failure, text) and under_way
            finally:
                piece.utterance.cancel()
        if then == "wait" and (changes or not under_way):  # several voices say something
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
            resumes=interrupts and interruption.resume and self.settings.answers_by_itself,
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
                self.expect_speech()
            case Commit(words, then) if turn:
                due = turn.due
                if then == "answer" and self._ahead.sounds_like_noise(turn.said):  # by silence
                    words, due = False, replace(due, overrides=replace(due.overrides, say=""))
                await self._around.send(events.speech_stopped(turn.said.item_id, turn.end_ms))
                await self.commit(turn.said, due, words, then)
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
                await self._responses.let_go()

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
            self.expect_speech()

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
        await self._step(Ended(said.item_id, self._ahead.has_words(said, stopped.voiced_samples)), turn)

    def _pieces(self, said: OpenUtterance, changes: Sequence[int]) -> Iterable[OpenUtterance]:
        """An utterance for each voice, where they are to be told apart within a turn."""
        if not changes:
            return [said]
        said.utterance.cancel()
        return self._ear.cut(said, changes)
