"""What is made of a turn before it is over: who seems to speak, what the answer would be, whether the turn sounds
finished, and whether there are words in it.

Acts only when `Turns` tells it to; whoever listens or writes meanwhile reports to the session's mailbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

from agent.hearing.ear import Ear, OpenUtterance, to_ms
from agent.hearing.turn_end import FIXED_MS, silence_ms
from agent.hearing.turns import SpeechPaused, SpeechStopped
from agent.protocol import server_events as events
from agent.protocol.turn_detection import Eagerness
from agent.sessions.attribution import Attribution
from agent.sessions.response import Surroundings
from agent.sessions.responses import Responses
from agent.sessions.transcripts import Transcript
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
    written: Transcript | None  # None: that failed


@dataclass(frozen=True, slots=True)
class HeardEarly:
    """Report: what was said so far, enough to tell whose voice it is."""

    said: OpenUtterance
    heard: Heard | None  # None: listening failed, likewise


TurnReport = HeardAhead | ReadAhead | HeardEarly


class Ahead:
    """Of the turns of one conversation."""

    def __init__(
        self,
        around: Surroundings,
        ear: Ear,
        who: Attribution,
        responses: Responses,
        start: Callable[[Coroutine[Any, Any, TurnReport], str], None],
        judge_turn_end: Callable[[Heard], float] | None,
    ) -> None:
        """start: has work done, under a name, and its result reported; judge_turn_end: None where nobody can tell"""
        self._around, self._ear, self._who, self._responses = around, ear, who, responses
        self._start, self._judge_turn_end = start, judge_turn_end
        self._unjudged = False  # the client was told that ends of turns cannot be judged

    def label(self) -> None:
        """Once there is enough of a voice, have it compared, long before the turn is over."""
        said, policy = self._ear.opened, self._ear.settings.speakers.policy
        if said and not said.labelled and said.seconds >= ENOUGH_S and policy != "off":
            said.labelled = True
            self._start(_hear_early(said), f"hear early {said.item_id}")

    def pause(self, paused: SpeechPaused, *, in_doubt: bool) -> None:
        """Use the wait for the end of the turn: what was said so far may be all. in_doubt: its words decide"""
        said, settings = self._ear.opened, self._ear.settings
        judged = settings.turn_detection and settings.turn_detection.eagerness
        wanted = in_doubt or judged or (settings.answers_by_itself and self._responses.idle)
        if said and wanted and not said.heard_ahead:
            said.heard_ahead, said.voiced_samples = True, paused.voiced_samples
            self._start(_hear_ahead(said, said.samples), f"hear ahead {said.item_id}")

    async def take_heard(self, ahead: HeardAhead, *, in_doubt: bool) -> SpeechStopped | None:
        """Guess the answer, and judge the pause; returns the end of the turn, where the pause was long enough."""
        said, heard = ahead.said, ahead.heard
        said.heard_ahead = False
        if said.samples != ahead.samples:
            return None
        settings = self._ear.settings
        may_be_noise = settings.answers_by_itself and to_ms(said.voiced_samples) < settings.interruption.unsure_ms
        if heard and (in_doubt or may_be_noise) and not self._is_short(said.voiced_samples):
            self._start(_read_ahead(self._around.engine, ahead, heard), f"read ahead {said.item_id}")
        if heard:
            self.speculate(heard)
        detection = settings.turn_detection
        return await self._judge(heard, detection.eagerness) if detection and detection.eagerness else None

    def take_read(self, ahead: ReadAhead) -> bool:
        """Remember the words; returns whether there are any in what was said by now."""
        said = ahead.said
        written, interruption = ahead.written, self._ear.settings.interruption
        if said.samples != ahead.samples or written is None:
            return False
        said.unsure = interruption.is_unsure(written.confidence, to_ms(said.voiced_samples))
        said.read = ahead.samples, "" if said.unsure else written.text
        return not interruption.is_nothing(said.read[1])

    def sounds_like_noise(self, said: OpenUtterance) -> bool:
        """Of a turn that is over."""
        return said.unsure and said.read is not None and said.read[0] == said.samples

    async def take_early(self, early: HeardEarly) -> None:
        """Say who seems to be speaking."""
        if early.heard:
            await self._who.tell_early(early.said.item_id, early.heard)

    def speculate(self, heard: Heard) -> None:
        """Have the answer begun that would be due if this were all."""
        guess = self._who.guess(heard)
        if self._ear.settings.answers_by_itself and not self._who.refusal(guess):
            number = guess.number if guess else None
            self._responses.speculate(self._ear.settings, Exchange(heard=heard, speaker=number))

    def has_words(self, said: OpenUtterance, voiced_samples: int) -> bool | None:
        """Of a turn that is over; None: nobody knows yet."""
        if self._is_short(voiced_samples):
            return False
        if said.read is None or said.read[0] != said.samples:
            return None
        return not self._ear.settings.interruption.is_nothing(said.read[1])

    def _is_short(self, voiced_samples: int) -> bool:
        return to_ms(voiced_samples) < self._ear.settings.interruption.short_ms

    async def _judge(self, heard: Heard | None, eagerness: Eagerness) -> SpeechStopped | None:
        """What was said sounds finished, or not: that decides how long the pause has to last."""
        score = self._judge_turn_end
        pause_ms = silence_ms(eagerness, score(heard)) if score and heard else FIXED_MS
        if score is None and not self._unjudged:
            self._unjudged = True
            message = f"this model cannot tell a finished turn; each ends after {FIXED_MS} ms of silence"
            log.warning(message)
            await self._around.send(events.turn_detection_degraded(message))
        return self._ear.wait(pause_ms)


async def _hear_ahead(said: OpenUtterance, samples: int) -> HeardAhead:
    return HeardAhead(said, samples, await _heard(said))


async def _read_ahead(engine: Engine, ahead: HeardAhead, heard: Heard) -> ReadAhead:
    written: Transcript | None = None
    with suppress(CoreError):
        async with aclosing(engine.transcribe(heard)) as pieces:
            written = Transcript(tuple([piece async for piece in pieces]))
    return ReadAhead(ahead.said, ahead.samples, heard, written)


async def _hear_early(said: OpenUtterance) -> HeardEarly:
    return HeardEarly(said, await _heard(said))


async def _heard(said: OpenUtterance) -> Heard | None:
    with suppress(CoreError):
        return await said.utterance.hear()
    return None
