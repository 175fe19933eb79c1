"""What clients say, in the words of OpenAI Realtime, and the one function that reads it.

`parse_client_event` takes any message at all and either returns one of the classes below or raises
ProtocolError. Unknown fields are ignored; unknown types, and known fields that ask for something this
server does not do, are refused. A binary message is an extension: audio as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_DEPTH, MAX_ID_CHARS, MAX_MESSAGE_BYTES, Fields, check_depth
from agent.protocol.items import NewItem, read_item
from agent.protocol.legacy import modern
from agent.protocol.response_create import ResponseCreate, read_response_create
from agent.protocol.speakers import SpeakerName, read_enrol, read_name

MAX_AUDIO_END_MS: Final = 24 * 3_600_000
NO_WEBRTC: Final = "there is such a buffer over WebRTC and SIP only; truncate the item instead"


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
    """Put an item into the conversation."""

    event_id: str | None
    item: NewItem
    previous_item_id: str | None  # None: at the end; "root": at the beginning


@dataclass(frozen=True, slots=True)
class ItemRetrieve:
    """Show an item, with its audio."""

    event_id: str | None
    item_id: str


@dataclass(frozen=True, slots=True)
class ItemDelete:
    """Take an item out of the conversation."""

    event_id: str | None
    item_id: str


@dataclass(frozen=True, slots=True)
class ItemTruncate:
    """Of a spoken reply only so much was heard."""

    event_id: str | None
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class PlaybackAck:
    """So much of a spoken reply was played by now; an extension."""

    event_id: str | None
    item_id: str
    played_ms: int


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
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | PlaybackAck
    | SpeakerName
)


def parse_client_event(message: str | bytes, *, legacy: bool = False) -> ClientEvent:
    """Read one message; `legacy`: in the names of the beta.

    Raises ProtocolError, with the event_id where one could be read.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        text = f"the message has {len(message)} bytes; the limit is {MAX_MESSAGE_BYTES}"
        raise ProtocolError("message_too_large", text)
    if isinstance(message, bytes):
        return AudioAppend(None, message)
    try:
        values = DECODER.decode(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", f"the message is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ProtocolError("invalid_json", "the message must be a JSON object")
    if message.count("{") + message.count("[") > MAX_DEPTH:  # of audio there are many, and it is nested once
        check_depth(values)
    fields = Fields(modern(values) if legacy else values)
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


def knows_extensions(event: ClientEvent) -> bool:
    """Whether a client that says this has heard of this server's own events."""
    if isinstance(event, SessionUpdate):
        return "wavllm" in event.patch
    return isinstance(event, PlaybackAck | SpeakerName)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _session_update(event_id: str | None, fields: Fields) -> SessionUpdate:
    return SessionUpdate(event_id, fields.object("session"))


def _audio_append(event_id: str | None, fields: Fields) -> AudioAppend:
    return AudioAppend(event_id, fields.audio("audio"))


def _audio_commit(event_id: str | None, fields: Fields) -> AudioCommit:
    return AudioCommit(event_id)


def _audio_clear(event_id: str | None, fields: Fields) -> AudioClear:
    return AudioClear(event_id)


def _no_output_buffer(event_id: str | None, fields: Fields) -> NoReturn:
    raise ProtocolError("unsupported_event", f"output_audio_buffer.clear: {NO_WEBRTC}", param="type")


def _item_create(event_id: str | None, fields: Fields) -> ItemCreate:
    return ItemCreate(event_id, read_item(fields.object("item")), fields.optional_text("previous_item_id"))


def _item_retrieve(event_id: str | None, fields: Fields) -> ItemRetrieve:
    return ItemRetrieve(event_id, fields.text("item_id", MAX_ID_CHARS))


def _item_delete(event_id: str | None, fields: Fields) -> ItemDelete:
    return ItemDelete(event_id, fields.text("item_id", MAX_ID_CHARS))


def _item_truncate(event_id: str | None, fields: Fields) -> ItemTruncate:
    fields.integer("content_index", 0, 0)
    end_ms = fields.integer("audio_end_ms", 0, MAX_AUDIO_END_MS)
    return ItemTruncate(event_id, fields.text("item_id", MAX_ID_CHARS), end_ms)


def _playback_ack(event_id: str | None, fields: Fields) -> PlaybackAck:
    played_ms = fields.integer("played_ms", 0, MAX_AUDIO_END_MS)
    return PlaybackAck(event_id, fields.text("item_id", MAX_ID_CHARS), played_ms)


def _response_cancel(event_id: str | None, fields: Fields) -> ResponseCancel:
    return ResponseCancel(event_id, fields.optional_text("response_id"))


PARSERS: Final[dict[str, Callable[[str | None, Fields], ClientEvent]]] = {
    "session.update": _session_update,
    "input_audio_buffer.append": _audio_append,
    "input_audio_buffer.commit": _audio_commit,
    "input_audio_buffer.clear": _audio_clear,
    "output_audio_buffer.clear": _no_output_buffer,
    "conversation.item.create": _item_create,
    "conversation.item.retrieve": _item_retrieve,
    "conversation.item.delete": _item_delete,
    "conversation.item.truncate": _item_truncate,
    "response.create": read_response_create,
    "response.cancel": _response_cancel,
    "wavllm.playback.ack": _playback_ack,
    "wavllm.speaker.name": read_name,
    "wavllm.speaker.enrol": read_enrol,
}
