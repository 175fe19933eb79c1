"""One key: pressed once it begins what is said, pressed again it ends it, and interrupts whatever sounds."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from clients.playback import Playback, interrupt
from clients.realtime import SAMPLE_RATE, Conversation, Event

LEAST_SAMPLES: Final = SAMPLE_RATE // 5  # what is shorter was no word


class PushToTalk:
    """Whether the key is held, and what the server has to be told of it."""

    def __init__(self) -> None:
        self.held = False
        self._samples = 0  # heard since it was pressed
        self._answering = False

    def begin(self) -> Event:
        """What to send first: the server finds no turns."""
        self.held, self._answering = False, False
        return {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}}

    def hold(self, samples: int) -> bool:
        """So much was heard; returns whether it is to be sent."""
        self._samples += samples if self.held else 0
        return self.held

    async def press(self, conversation: Conversation, playback: Playback | None) -> None:
        """Begin or end. Raises ClientError when the server is gone."""
        if not self.held:
            self._samples, self.held = 0, True
            if playback:
                await interrupt(conversation, playback)
            if self._answering:
                await conversation.send({"type": "response.cancel"})
            return
        self.held = False
        if self._samples < LEAST_SAMPLES:
            await conversation.send({"type": "input_audio_buffer.clear"})
        else:
            await conversation.send({"type": "input_audio_buffer.commit"})
            await conversation.send({"type": "response.create"})

    async def noted(self, events: AsyncIterable[Event]) -> AsyncIterator[Event]:
        """The events, from which it learns whether a reply is under way."""
        async for event in events:
            if event["type"] in ("response.created", "response.done"):
                self._answering = event["type"] == "response.created"
            yield event
