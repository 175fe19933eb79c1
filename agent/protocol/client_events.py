"""What clients say, in the words of OpenAI Realtime, and the one function that reads it.

`parse_client_event` takes any message at all and either returns one of the classes below or raises
ProtocolError. Unknown fields are ignored; unknown types, and known fields that ask for something this
server does not do, are refused. A binary message is an extension: audio as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_ID_CHARS, MAX_MESSAGE_BYTES, MAX_TEXT_CHARS, Fields
from agent.protocol.formats import PCM_24_KHZ, AudioFormat
from agent.protocol.settings import NO_TOOLS, Modality, output_audio, output_modality, output_tokens

MAX_CONTENT_PARTS: Final = 16
MAX_METADATA_PAIRS: Final = 16
MAX_AUDIO_END_MS: Final = 24 * 3_600_000
CONTENT_TYPES: Final = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio"),
    "assistant": ("output_text",),
}


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """Change some settings."""

    event_id: str | None
    patch: Fields


@dataclass(frozen=True, slots=True)
class AudioAppend:
    """More of what the microphone heard."""

    event_id: str | None
    audio: bytes  # in the input format of the session


@dataclass(frozen=True, slots=True)
class AudioCommit:
    """What was appended is a whole turn."""

    event_id: str | None


@dataclass(frozen=True, slots=True)
class AudioClear:
    """Forget what was appended."""

    event_id: str | None


@dataclass(frozen=True, slots=True)
class ItemCreate:
    """Put a message into the conversation."""

    event_id: str | None
    role: Literal["system", "user", "assistant"]
    text: str
    audio: bytes | None  # spoken instead of typed, in the input format of the session
    item_id: str | None  # chosen by the client
    previous_item_id: str | None  # None: at the end; "root": at the beginning


@dataclass(frozen=True, slots=True)
class ItemDelete:
    """Take a message out of the conversation."""

    event_id: str | None
    item_id: str


@dataclass(frozen=True, slots=True)
class ItemTruncate:
    """Of a spoken reply only so much was heard."""

    event_id: str | None
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class ResponseCreate:
    """Answer now; whatever is None is as the session has it."""

    event_id: str | None = None
    instructions: str | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    output: Modality | None = None
    output_format: AudioFormat | None = None


@dataclass(frozen=True, slots=True)
class ResponseCancel:
    """Stop answering."""

    event_id: str | None
    response_id: str | None  # None: whichever is active


ClientEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)


def parse_client_event(message: str | bytes) -> ClientEvent:
    """Read one message. Raises ProtocolError, with the event_id where one could be read."""
    if len(message) > MAX_MESSAGE_BYTES:
        text = f"the message has {len(message)} bytes; the limit is {MAX_MESSAGE_BYTES}"
        raise ProtocolError("message_too_large", text)
    if isinstance(message, bytes):
        return AudioAppend(None, message)
    try:
        values = json.loads(message, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", f"the message is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ProtocolError("invalid_json", "the message must be a JSON object")
    fields = Fields(values)
    event_id = fields.optional_text("event_id")
    try:
        kind = fields.text("type", MAX_ID_CHARS)
        if kind not in PARSERS:
            known = ", ".join(PARSERS)
            raise ProtocolError("unknown_event", f"type {kind!r} is not one of: {known}", param="type")
        return PARSERS[kind](event_id, fields)
    except ProtocolError as error:
        error.event_id = event_id
        raise


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _session_update(event_id: str | None, fields: Fields) -> SessionUpdate:
    return SessionUpdate(event_id, fields.object("session"))


def _audio_append(event_id: str | None, fields: Fields) -> AudioAppend:
    return AudioAppend(event_id, fields.audio("audio"))


def _audio_commit(event_id: str | None, fields: Fields) -> AudioCommit:
    return AudioCommit(event_id)


def _audio_clear(event_id: str | None, fields: Fields) -> AudioClear:
    return AudioClear(event_id)


def _item_create(event_id: str | None, fields: Fields) -> ItemCreate:
    item = fields.object("item")
    item.choice("type", ["message"])
    role = item.choice("role", list(CONTENT_TYPES))
    text, audio = "", None
    parts = item.objects("content", MAX_CONTENT_PARTS)
    if not parts:
        raise item.wrong("content", "a list of at least one part")
    for part in parts:
        kind = part.choice("type", CONTENT_TYPES[role])
        if kind != "input_audio":
            text += part.text("text")
        elif len(parts) > 1:
            raise item.wrong("content", "one input_audio alone, or texts")
        else:
            audio = part.audio("audio")
    if len(text) > MAX_TEXT_CHARS:
        message = f"{item.at('content')} has {len(text)} characters; the limit is {MAX_TEXT_CHARS}"
        raise ProtocolError("string_above_max_length", message, param=item.at("content"))
    return ItemCreate(event_id, role, text, audio, item.optional_text("id"), fields.optional_text("previous_item_id"))


def _item_delete(event_id: str | None, fields: Fields) -> ItemDelete:
    return ItemDelete(event_id, fields.text("item_id", MAX_ID_CHARS))


def _item_truncate(event_id: str | None, fields: Fields) -> ItemTruncate:
    fields.integer("content_index", 0, 0)
    end_ms = fields.integer("audio_end_ms", 0, MAX_AUDIO_END_MS)
    return ItemTruncate(event_id, fields.text("item_id", MAX_ID_CHARS), end_ms)


def _response_create(event_id: str | None, fields: Fields) -> ResponseCreate:
    if fields.values.get("response") is None:
        return ResponseCreate(event_id)
    response = fields.object("response")
    if "conversation" in response:
        response.choice("conversation", ["auto"])
    response.refuse("input", "this server answers the conversation only")
    response.refuse("tools", NO_TOOLS)
    return ResponseCreate(
        event_id,
        response.optional_text("instructions", MAX_TEXT_CHARS),
        output_tokens(response) if response.values.get("max_output_tokens") is not None else None,
        _metadata(response),
        output_modality(response),
        output_audio(response, PCM_24_KHZ),
    )


def _metadata(response: Fields) -> dict[str, str]:
    if response.values.get("metadata") is None:
        return {}
    pairs = response.object("metadata")
    if len(pairs.values) > MAX_METADATA_PAIRS or any(len(name) > 64 for name in pairs.values):
        limit = f"an object of at most {MAX_METADATA_PAIRS} keys of at most 64 characters"
        raise response.wrong("metadata", limit)
    return {name: pairs.text(name, max_chars=512) for name in pairs.values}


def _response_cancel(event_id: str | None, fields: Fields) -> ResponseCancel:
    return ResponseCancel(event_id, fields.optional_text("response_id"))


PARSERS: Final[dict[str, Callable[[str | None, Fields], ClientEvent]]] = {
    "session.update": _session_update,
    "input_audio_buffer.append": _audio_append,
    "input_audio_buffer.commit": _audio_commit,
    "input_audio_buffer.clear": _audio_clear,
    "conversation.item.create": _item_create,
    "conversation.item.delete": _item_delete,
    "conversation.item.truncate": _item_truncate,
    "response.create": _response_create,
    "response.cancel": _response_cancel,
}
