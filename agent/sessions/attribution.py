"""Who says what in one conversation, and what follows: numbers and names for items, events for the client, refusals.

Acts only when its session tells it to. Voices are compared in `speakers`; who is known beyond this conversation is
in `voices`, whose file is read and written off the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agent.errors import EnrolmentError, RegistryError
from agent.hearing.listener import to_waveform
from agent.protocol import server_events as events
from agent.protocol.errors import ProtocolError
from agent.protocol.speakers import SpeakerName, SpeakerSettings
from agent.sessions.conversation import Conversation, Item
from agent.voices.diarization import hear_changes
from agent.voices.people import Sample, is_voice
from agent.voices.speakers import SpeakerGuess, SpeakerOptions, Speakers
from agent.voices.spelling import folded
from agent.voices.store import Person, check_name
from agent.voices.voiced import measure_voicing
from wavllm_core.engine.api import Context, Heard
from wavllm_core.errors import CoreError

NOT_KNOWN: Final = "the voice is none of those that are known here, and no other is answered"
NEW_FROM_S: Final = 2.0  # of speech, where turns are split: a piece of one is often too short to be somebody new
CANNOT_ENROL: Final = "this server lets no client enrol voices"

log = logging.getLogger(__name__)


class Attribution:
    """The voices of one conversation."""

    def __init__(
        self,
        context: Context,
        options: SpeakerOptions,
        settings: SpeakerSettings,
        conversation: Conversation,
        send: Callable[[events.ServerEvent], Awaitable[None]],
    ) -> None:
        self._context, self._options, self._conversation, self._send = context, options, conversation, send
        self.settings = settings
        self.speakers = Speakers(options.scale, options.people.known if options.people else ())

    async def begin(self) -> None:
        """Take over who was enrolled since the server began; what cannot be read leaves those it knew."""
        people = self._options.people
        if people and self.settings.policy != "off":
            try:
                await asyncio.to_thread(people.refresh)
            except RegistryError as error:
                log.error("who is known is not up to date: %s", error)
            self.speakers = Speakers(self._options.scale, people.known)

    def guess(self, heard: Heard) -> SpeakerGuess | None:
        """Who it probably is, without learning from it; None: voices are not compared."""
        return None if self.settings.policy == "off" else self.speakers.guess(heard.speaker_vector)

    async def tell(self, item: Item, heard: Heard, start_ms: int | None = None) -> None:
        """Note who said an item, and say so. `start_ms`: of the item in the audio of the session, where known."""
        if self.settings.policy == "off":
            return
        new_from_s = NEW_FROM_S if self.settings.split_turns else 0.0
        guess = self.speakers.assign(heard.speaker_vector, heard.seconds, new_from_s)
        item.speaker, item.voice = guess.number, heard.speaker_vector
        self._conversation.names = self.speakers.names
        span = None if start_ms is None else (start_ms, start_ms + round(1000 * heard.seconds))
        await self._send(_told(item.id, guess, span=span))

    async def tell_early(self, item_id: str, heard: Heard) -> None:
        """Say who seems to be speaking."""
        if guess := self.guess(heard):
            await self._send(_told(item_id, guess, provisional=True))

    def refusal(self, guess: SpeakerGuess | None) -> str | None:
        """Why this voice is not answered, if it is not."""
        known = guess is not None and guess.person_id is not None
        return NOT_KNOWN if self.settings.policy == "require" and not known else None

    def refusal_of(self, item: Item | None) -> str | None:
        """The same of an item; what was typed has no voice."""
        if self.settings.policy != "require" or item is None or not item.spoken:
            return None
        return self.refusal(None if item.voice is None else self.speakers.guess(item.voice))

    async def find_changes(self, pcm: Sequence[bytes]) -> list[int]:
        """Samples of an utterance at which another voice goes on, where they are to be told apart within a turn."""
        if not self.settings.split_turns or self.settings.policy == "off":
            return []
        try:
            return await hear_changes(self._context, pcm, self._options.scale)
        except CoreError:  # the whole may still be heard
            return []

    def person_of(self, item: Item | None) -> str | None:
        """Under which name whoever said an item was enrolled; None: it was typed, or the voice is not known."""
        if item is None or item.voice is None or self.settings.policy == "off":
            return None
        return self.speakers.enrolled_name(item.voice)

    async def name(self, wanted: SpeakerName) -> None:
        """Call a voice by name from now on. Raises ProtocolError when it cannot be, or cannot be enrolled."""
        voice, person = self.speakers.find(wanted.number), None
        if voice is None:
            message = f"number {wanted.number}: {len(self.speakers.voices)} voices were heard in this session"
            raise ProtocolError("speaker_not_found", message, param="number")
        try:
            check_name(wanted.name)
            taken = {folded(name) for number, name in self.speakers.names.items() if number != wanted.number}
            if folded(wanted.name) in taken:
                raise EnrolmentError(f"another voice of this session is called {wanted.name!r}")
            if wanted.enrol:
                person = await self._enrol(wanted)
        except (EnrolmentError, RegistryError) as error:
            raise ProtocolError("speaker_not_enrolled" if wanted.enrol else "invalid_value", str(error)) from error
        self.speakers.name(wanted.number, wanted.name, person)
        self._conversation.names = self.speakers.names
        await self._send(events.speaker_named(wanted.number, wanted.name, person.id if person else None))

    async def _enrol(self, wanted: SpeakerName) -> Person:
        people = self._options.people
        if people is None or not self._options.clients_may_enrol:
            raise EnrolmentError(CANNOT_ENROL)
        spoken = [
            (item.voice, pcm)
            for item in self._conversation.items
            if item.speaker == wanted.number and item.voice is not None
            if (pcm := self._conversation.audio.get(item.id))
        ]

        def enrol() -> Person:
            samples = [
                Sample(f"utterance {number}", vector, measure_voicing(to_waveform(pcm), self._options.detect))
                for number, (vector, pcm) in enumerate(spoken, start=1)
            ]
            return people.enrol(wanted.name, [sample for sample in samples if is_voice(sample.voicing)])

        return await asyncio.to_thread(enrol)


def _told(
    item_id: str, guess: SpeakerGuess, *, span: tuple[int, int] | None = None, provisional: bool = False
) -> events.ServerEvent:
    return events.speaker_told(
        item_id,
        guess.number,
        guess.name,
        guess.similarity,
        guess.confidence,
        person_id=guess.person_id,
        span=span,
        provisional=provisional,
    )
