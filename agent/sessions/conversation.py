"""What was said and done in one conversation: items as clients see them, exchanges as the model needs them.

Bounded: the oldest exchange goes when there are too many. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from agent.protocol.errors import ProtocolError
from agent.protocol.server_events import call_item, call_output_item, message_item, speaker_name
from agent.sessions.kept_audio import KeptAudio
from agent.sessions.tool_calls import Call
from agent.speech.alignment import Alignment
from agent.speech.voice import VOICE_RATE
from agent.voices.naming import Names
from wavllm_core.engine.api import Exchange, Heard

MAX_ITEMS: Final = 128  # 64 exchanges
DROPPED_ITEMS: Final = 32  # at a time: what the model has read of the rest, it reads anew whenever the oldest go


@dataclass(frozen=True, slots=True)
class Calling:
    """The model called a function, by which name the answer is told apart."""

    call_id: str
    call: Call
    by_server: bool = False  # it answers the call, and no client does
    refusal: str | None = None  # why nothing is done, if the server refuses the call


@dataclass(frozen=True, slots=True)
class Called:
    """What a call gave."""

    call_id: str
    output: str


@dataclass(slots=True, eq=False)
class Item:
    """One message, call or output of a call. A spoken message gets its text when the transcript is there."""

    id: str
    role: Literal["system", "user", "assistant"]
    text: str = ""  # of a call or its output: as the model reads it
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    spoken: bool = False
    seconds: float = 0.0  # of speech
    heard: Heard | None = None  # kept for the newest user item only
    speaker: int | None = None
    voice: npt.NDArray[np.float32] | None = None  # (dim,), of a spoken one
    tokens: int = 0  # of its text, for usage figures
    alignment: Alignment | None = None  # of a spoken reply
    aside: bool = False  # words that are none of the model's, which it is not shown
    tool: Calling | Called | None = None

    def to_wire(self, audio: str | None = None) -> dict[str, Any]:
        """The item object of the protocol; `audio`: in base64, where it is wanted."""
        match self.tool:
            case Calling(call_id, call):
                return call_item(self.id, self.status, call_id, call.name, call.arguments)
            case Called(call_id, output):
                return call_output_item(self.id, call_id, output)
        content: dict[str, Any]
        if self.spoken:
            content = {"type": "input_audio", "transcript": self.text or None}
        elif self.alignment:
            content = {"type": "output_audio", "transcript": self.text}
        else:
            content = {"type": "output_text" if self.role == "assistant" else "input_text", "text": self.text}
        if audio is not None:
            content["audio"] = audio
        return message_item(self.id, self.role, self.status, [content])


class Conversation:
    """The items in their order."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.audio = KeptAudio()
        self.names: Names = {}  # of speakers that have one

    @property
    def last_id(self) -> str | None:
        return self.items[-1].id if self.items else None

    @property
    def last_said(self) -> Item | None:
        """The newest thing that a person said or typed."""
        return last_said(self.items)

    def speaker_label(self, item: Item) -> str | None:
        """How people call who said an item; None: nobody knows."""
        return None if item.speaker is None else self.names.get(item.speaker, speaker_name(item.speaker))

    def find(self, item_id: str) -> Item | None:
        return next((item for item in self.items if item.id == item_id), None)

    def get(self, item_id: str, param: str = "item_id") -> Item:
        """Raises ProtocolError when there is no such item."""
        item = self.find(item_id)
        if item is None:
            raise ProtocolError("item_not_found", f"there is no item {item_id!r}", param=param)
        return item

    def check_call(self, call_id: str, others: Sequence[Item] = (), param: str = "item.call_id") -> None:
        """Raises ProtocolError when nothing can have come of this call, as there was none."""
        callings = [item.tool for item in (*self.items, *others) if isinstance(item.tool, Calling)]
        calling = next((calling for calling in callings if calling.call_id == call_id), None)
        if calling is None or calling.by_server:
            why = "is answered by the server" if calling else "is none of this conversation"
            raise ProtocolError("invalid_tool_call_id", f"the function call {call_id!r} {why}", param=param)

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
            self._make_room(item)
        return before

    def _make_room(self, new: Item) -> None:
        """Forget the oldest exchanges; what is `new` stays wherever it stands, and so does what system messages say."""
        said = [item for item in self.items if item.role != "system"]
        few = len(said) < MAX_ITEMS // 2
        for item in self.items[:DROPPED_ITEMS] if few else said[: _beginning(said)]:
            if item is not new:
                self.remove(item.id)

    def remove(self, item_id: str) -> None:
        """Raises ProtocolError when there is no such item."""
        self.items.remove(self.get(item_id))
        self.audio.forget(item_id)

    def truncate(self, item_id: str, audio_end_ms: int) -> Item:
        """Take the words out of a spoken reply that were not heard. Raises ProtocolError, and changes nothing then."""
        item, alignment = self._spoken_reply(item_id, "truncated")
        if audio_end_ms > alignment.sent_ms and alignment.played_ms is None:
            message = f"the audio of {alignment.sent_ms} ms is already shorter than audio_end_ms, {audio_end_ms}"
            raise ProtocolError("invalid_value", message, param="audio_end_ms")
        alignment.truncate(audio_end_ms)
        item.text = alignment.text
        self.audio.cut(item_id, audio_end_ms * VOICE_RATE // 1000)
        return item

    def acknowledge(self, item_id: str, played_ms: int) -> Item:
        """Of a spoken reply so much was played. Raises ProtocolError, and changes nothing then."""
        item, alignment = self._spoken_reply(item_id, "played")
        if played_ms > alignment.sent_ms:
            message = f"of {item_id!r} {alignment.sent_ms} ms were sent; played_ms is {played_ms}"
            raise ProtocolError("invalid_value", message, param="played_ms")
        alignment.played_ms = max(played_ms, alignment.played_ms or 0)
        return item

    def _spoken_reply(self, item_id: str, what: str) -> tuple[Item, Alignment]:
        item = self.get(item_id)
        if item.alignment is None:
            message = f"item {item_id!r} is no spoken reply; only those can be {what}"
            raise ProtocolError("invalid_value", message, param="item_id")
        return item, item.alignment

    def instructions(self, own: str) -> str:
        """The instructions of the session or response, and what system messages add."""
        return instructions(self.items, own)

    def exchanges(self, waiting: bool = True) -> list[Exchange]:
        """What the model is given; see below."""
        return exchanges(self.items, waiting)


def _beginning(said: Sequence[Item]) -> int:
    """Where those begin that stay: at what a person said, as an answer to what has gone is none.

    A call begins as well, where calls follow each other for so long that little would be left.
    """
    places = range(DROPPED_ITEMS, len(said))
    person = next((at for at in places if said[at].role == "user" and not said[at].tool), len(said) - 1)
    if person < 2 * DROPPED_ITEMS:
        return person
    return next((at for at in places[: person - DROPPED_ITEMS] if isinstance(said[at].tool, Calling)), person)


def last_said(items: Sequence[Item]) -> Item | None:
    """The newest thing in them that a person said or typed."""
    said = (item for item in reversed(items) if item.role == "user" and not item.tool and not item.aside)
    return next(said, None)


def instructions(items: Sequence[Item], own: str) -> str:
    """`own`, and what system messages add."""
    added = [item.text for item in items if item.role == "system"]
    return "\n".join(text for text in [own, *added] if text)


def exchanges(items: Sequence[Item], waiting: bool = True) -> list[Exchange]:
    """What the model is given, oldest first; what several calls gave is one turn, seen even if nothing was said of it.

    waiting: the last one is the one to answer, so it has no reply; where nothing waits for an answer there
        is an empty one at the end: speak unasked. False: all of it is past, and audio with it
    """
    found: list[Exchange] = []
    outputs = False  # the last one is made of
    for item in items:
        if item.aside or (item.tool and not item.text):  # the second: a model that is told of no calls
            continue
        if item.role == "user" and outputs and item.tool:
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{item.text}")
        elif item.role == "user":
            if outputs:
                found[-1] = replace(found[-1], reply=found[-1].reply or "")
            found.append(Exchange(item.text, item.heard if waiting else None, item.speaker))
        elif item.role == "assistant" and found:
            said = found[-1].reply
            found[-1] = replace(found[-1], reply=f"{said} {item.text}" if said else item.text)
        elif item.role == "assistant":
            found.append(Exchange(reply=item.text))
        outputs = item.role == "user" and item.tool is not None
    if waiting and (not found or found[-1].reply is not None):
        found.append(Exchange())
    return found
