"""What was said in one conversation: items as clients see them, exchanges as the model needs them.

Bounded: the oldest exchange goes when there are too many. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent.alignment import Alignment
from agent.protocol.errors import ProtocolError
from agent.protocol.server_events import message_item
from wavllm_core.engine.api import Exchange, Heard

MAX_ITEMS: Final = 128  # 64 exchanges


@dataclass(slots=True, eq=False)
class Item:
    """One message. A spoken one gets its text when the transcript is there."""

    id: str
    role: Literal["system", "user", "assistant"]
    text: str = ""
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    spoken: bool = False
    seconds: float = 0.0  # of speech
    heard: Heard | None = None  # kept for the newest user item only
    speaker: int | None = None
    tokens: int = 0  # of its text, for usage figures
    alignment: Alignment | None = None  # of a spoken reply

    def to_wire(self) -> dict[str, Any]:
        """The item object of the protocol."""
        content: dict[str, Any]
        if self.spoken:
            content = {"type": "input_audio", "transcript": self.text or None}
        elif self.alignment:
            content = {"type": "output_audio", "transcript": self.text}
        else:
            content = {"type": "output_text" if self.role == "assistant" else "input_text", "text": self.text}
        return message_item(self.id, self.role, self.status, [content])


class Conversation:
    """The items in their order."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    @property
    def last_id(self) -> str | None:
        return self.items[-1].id if self.items else None

    def find(self, item_id: str) -> Item | None:
        return next((item for item in self.items if item.id == item_id), None)

    def place_after(self, item_id: str) -> str | None:
        """Where `add` puts an item behind this one: at the end when this one is gone."""
        return item_id if item_id == "root" or self.find(item_id) else None

    def check_new(self, item_id: str | None, previous_item_id: str | None) -> None:
        """Raises ProtocolError when an item with these names could not be added."""
        if item_id is not None and self.find(item_id):
            raise ProtocolError("invalid_value", f"there is an item {item_id!r} already", param="item.id")
        if previous_item_id not in (None, "root") and not self.find(previous_item_id or ""):
            message = f"there is no item {previous_item_id!r} to put this one after"
            raise ProtocolError("item_not_found", message, param="previous_item_id")

    def add(self, item: Item, previous_item_id: str | None = None) -> str | None:
        """Put an item at the end, or after another, or first ("root"); returns which one is before it."""
        place = len(self.items)
        if previous_item_id is not None:
            ids = [other.id for other in self.items]
            place = 0 if previous_item_id == "root" else ids.index(previous_item_id) + 1
        before = self.items[place - 1].id if place else None
        if item.role == "user":
            for earlier in self.items[:place]:
                earlier.heard = None
        self.items.insert(place, item)
        if len(self.items) > MAX_ITEMS:
            del self.items[0]
            while len(self.items) > 1 and self.items[0].role == "assistant":  # an answer to what has gone
                del self.items[0]
        return before

    def remove(self, item_id: str) -> None:
        """Raises ProtocolError when there is no such item."""
        item = self.find(item_id)
        if item is None:
            raise ProtocolError("item_not_found", f"there is no item {item_id!r}", param="item_id")
        self.items.remove(item)

    def truncate(self, item_id: str, audio_end_ms: int) -> Item:
        """Take the words out of a spoken reply that were not heard. Raises ProtocolError, and changes nothing then."""
        item = self.find(item_id)
        if item is None:
            raise ProtocolError("item_not_found", f"there is no item {item_id!r}", param="item_id")
        if item.alignment is None:
            message = f"item {item_id!r} is no spoken reply; only those can be truncated"
            raise ProtocolError("invalid_value", message, param="item_id")
        if audio_end_ms > item.alignment.sent_ms:
            message = f"the audio of {item.alignment.sent_ms} ms is already shorter than audio_end_ms, {audio_end_ms}"
            raise ProtocolError("invalid_value", message, param="audio_end_ms")
        item.alignment.truncate(audio_end_ms)
        item.text = item.alignment.text
        return item

    def instructions(self, own: str) -> str:
        """The instructions of the session or response, and what system messages add."""
        added = [item.text for item in self.items if item.role == "system"]
        return "\n".join(text for text in [own, *added] if text)

    def exchanges(self, waiting: bool = True) -> list[Exchange]:
        """What the model is given, oldest first.

        waiting: the last one is the one to answer, so it has no reply; where nothing waits for an answer there
            is an empty one at the end: speak unasked. False: all of it is past, and audio with it
        """
        exchanges: list[Exchange] = []
        for item in self.items:
            if item.role == "user":
                exchanges.append(Exchange(item.text, item.heard if waiting else None, item.speaker))
            elif item.role == "assistant" and exchanges:
                said = exchanges[-1].reply
                exchanges[-1] = replace(exchanges[-1], reply=f"{said} {item.text}" if said else item.text)
            elif item.role == "assistant":
                exchanges.append(Exchange(reply=item.text))
        if waiting and (not exchanges or exchanges[-1].reply is not None):
            exchanges.append(Exchange())
        return exchanges
