"""Items as a client writes them: messages, calls of functions and what came of them, and references to either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_ID_CHARS, MAX_TEXT_CHARS, Fields

MAX_CONTENT_PARTS: Final = 16
CONTENT_TYPES: Final = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio"),
    "assistant": ("output_text",),
}

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class NewMessage:
    """Something said."""

    id: str | None  # chosen by the client
    role: Role
    text: str
    audio: bytes | None = None  # spoken instead of typed, in the input format of the session


@dataclass(frozen=True, slots=True)
class NewCall:
    """The model called a function, some time ago."""

    id: str | None
    call_id: str | None
    name: str
    arguments: str  # JSON, as the model wrote it


@dataclass(frozen=True, slots=True)
class NewCallOutput:
    """What a call gave."""

    id: str | None
    call_id: str
    output: str


@dataclass(frozen=True, slots=True)
class ItemReference:
    """An item that is in the conversation already."""

    id: str
    path: str  # of the reference, for complaints


NewItem = NewMessage | NewCall | NewCallOutput


def read_item(fields: Fields) -> NewItem:
    """An item to be created. Raises ProtocolError."""
    kind = fields.choice("type", ["message", "function_call", "function_call_output"])
    item_id = fields.optional_text("id")
    if kind == "function_call":
        call_id = fields.optional_text("call_id")
        return NewCall(item_id, call_id, fields.text("name", MAX_ID_CHARS), fields.text("arguments"))
    if kind == "function_call_output":
        return NewCallOutput(item_id, fields.text("call_id", MAX_ID_CHARS), fields.text("output"))
    return _read_message(fields, item_id)


def read_input_item(fields: Fields) -> NewItem | ItemReference:
    """The same as the input of one response, where an item can be referred to."""
    if fields.values.get("type") == "item_reference":
        return ItemReference(fields.text("id", MAX_ID_CHARS), fields.path)
    return read_item(fields)


def _read_message(fields: Fields, item_id: str | None) -> NewMessage:
    role: Role = fields.choice("role", list(CONTENT_TYPES))
    parts = fields.objects("content", MAX_CONTENT_PARTS)
    if not parts:
        raise fields.wrong("content", "a list of at least one part")
    text, audio = "", None
    for part in parts:
        kind = part.choice("type", CONTENT_TYPES[role])
        if kind != "input_audio":
            text += part.text("text")
        elif len(parts) > 1:
            raise fields.wrong("content", "one input_audio alone, or texts")
        else:
            audio = part.audio("audio")
    if len(text) > MAX_TEXT_CHARS:
        message = f"{fields.at('content')} has {len(text)} characters; the limit is {MAX_TEXT_CHARS}"
        raise ProtocolError("string_above_max_length", message, param=fields.at("content"))
    return NewMessage(item_id, role, text, audio)
