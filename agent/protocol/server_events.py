"""What the server says, in the words of OpenAI Realtime: one function per event.

Knows the spelling only; what is sent when is for the session. An event gets its event_id in `encode`.
Extensions are extra keys and events that begin with EXTENSION; `EXTENSIONS` announces them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, Final, Literal

from agent.protocol.errors import ProtocolError

ServerEvent = dict[str, Any]

EXTENSION: Final = "wavllm."
EXTENSIONS: Final = [
    "wavllm.speaker",
    "wavllm.speaker.name",
    "wavllm.speaker.enrol",
    "wavllm.playback",
    "wavllm.speech_ignored",
    "wavllm.turn_detection_degraded",
    "wavllm_resumes",
    "wavllm.function",
    "wavllm.timer",
    "wavllm_latency",
    "wavllm_say",
    "binary_audio",
]
TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"


def new_id(prefix: str) -> str:
    """A name that no other object has."""
    return f"{prefix}_{secrets.token_hex(8)}"


def encode(event: ServerEvent, new_id: Callable[[str], str] = new_id) -> str:
    """The message that carries an event."""
    return json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))


def session_created(session: dict[str, Any], version: str) -> ServerEvent:
    extensions = {"extensions": EXTENSIONS, "version": version}
    return {"type": "session.created", "session": session, "wavllm": extensions}


def session_updated(session: dict[str, Any]) -> ServerEvent:
    return {"type": "session.updated", "session": session}


def error(error: ProtocolError, *, kind: str = "invalid_request_error") -> ServerEvent:
    """A complaint; the socket stays open."""
    details = {
        "type": kind,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": error.event_id,
    }
    return {"type": "error", "error": details}


def speech_started(item_id: str, audio_start_ms: int) -> ServerEvent:
    return {
        "type": "input_audio_buffer.speech_started",
        "item_id": item_id,
        "audio_start_ms": audio_start_ms,
    }


def speech_stopped(item_id: str, audio_end_ms: int) -> ServerEvent:
    return {"type": "input_audio_buffer.speech_stopped", "item_id": item_id, "audio_end_ms": audio_end_ms}


def speech_ignored(transcript: str, audio_start_ms: int, audio_end_ms: int) -> ServerEvent:
    """Extension: somebody spoke into a reply, which goes on, and it is no turn."""
    span = {"audio_start_ms": audio_start_ms, "audio_end_ms": audio_end_ms}
    return {"type": "wavllm.speech_ignored", "transcript": transcript, **span}


def turn_detection_degraded(message: str) -> ServerEvent:
    """Extension: turns end otherwise than was asked for. No `error`: to some clients each of those is the end."""
    return {"type": "wavllm.turn_detection_degraded", "message": message}


def timeout_triggered(item_id: str, audio_start_ms: int, audio_end_ms: int) -> ServerEvent:
    return {
        "type": "input_audio_buffer.timeout_triggered",
        "item_id": item_id,
        "audio_start_ms": audio_start_ms,
        "audio_end_ms": audio_end_ms,
    }


def audio_committed(item_id: str, previous_item_id: str | None) -> ServerEvent:
    return {
        "type": "input_audio_buffer.committed",
        "item_id": item_id,
        "previous_item_id": previous_item_id,
    }


def audio_cleared() -> ServerEvent:
    return {"type": "input_audio_buffer.cleared"}


def item_added(item: dict[str, Any], previous_item_id: str | None) -> ServerEvent:
    return {"type": "conversation.item.added", "item": item, "previous_item_id": previous_item_id}


def item_done(item: dict[str, Any], previous_item_id: str | None) -> ServerEvent:
    return {"type": "conversation.item.done", "item": item, "previous_item_id": previous_item_id}


def item_deleted(item_id: str) -> ServerEvent:
    return {"type": "conversation.item.deleted", "item_id": item_id}


def item_retrieved(item: dict[str, Any]) -> ServerEvent:
    return {"type": "conversation.item.retrieved", "item": item}


def item_truncated(item_id: str, audio_end_ms: int) -> ServerEvent:
    return {
        "type": "conversation.item.truncated",
        "item_id": item_id,
        "content_index": 0,
        "audio_end_ms": audio_end_ms,
    }


def playback(item_id: str, **ledger_ms: int) -> ServerEvent:
    """Extension: how far the audio of a spoken reply has got."""
    return {"type": "wavllm.playback", "item_id": item_id, **ledger_ms}


def speaker_told(
    item_id: str,
    number: int,
    name: str | None,
    similarity: float,
    confidence: float,
    *,
    person_id: str | None = None,
    span: tuple[int, int] | None = None,
    provisional: bool = False,
) -> ServerEvent:
    """Extension: who spoke, by number within this session, and by name where there is one.

    person_id: of somebody enrolled
    span: of the item in the audio of the session, in ms
    provisional: the turn is not over; another event follows for the item
    """
    return {
        "type": "wavllm.speaker",
        "item_id": item_id,
        "speaker": name or speaker_name(number),
        "number": number,
        "name": name,
        "id": person_id,
        "similarity": round(similarity, 3),
        "confidence": round(confidence, 3),
        **({"audio_start_ms": span[0], "audio_end_ms": span[1]} if span else {}),
        "provisional": provisional,
    }


def speaker_named(number: int, name: str, person_id: str | None) -> ServerEvent:
    """Extension: how a voice is called from now on; with an id when it is known in later sessions, too."""
    return {"type": "wavllm.speaker.named", "number": number, "name": name, "id": person_id}


def function_told(
    response_id: str,
    call_id: str,
    name: str,
    status: Literal["in_progress", "completed", "failed"],
    code: str | None = None,
    message: str | None = None,
) -> ServerEvent:
    """Extension: a call that the server answers, not the client; with a code and a message when nothing was done."""
    told = {"type": "wavllm.function", "response_id": response_id, "call_id": call_id, "name": name, "status": status}
    return told if code is None else {**told, "error": {"code": code, "message": message}}


def timer_told(call_id: str, name: str, status: str, left_s: float) -> ServerEvent:
    """Extension: a timer was set, cancelled, or is over."""
    return {"type": "wavllm.timer", "call_id": call_id, "name": name, "status": status, "left_s": left_s}


def transcript_delta(item_id: str, delta: str, logprobs: list[dict[str, Any]] | None = None) -> ServerEvent:
    event = {"type": f"{TRANSCRIPTION}.delta", "item_id": item_id, "content_index": 0, "delta": delta}
    return event if logprobs is None else event | {"logprobs": logprobs}


def logprob(token: str, value: float) -> dict[str, Any]:
    """How sure the model was of a piece of a transcript."""
    return {"token": token, "logprob": round(value, 6), "bytes": list(token.encode())}


def transcript_segment(item_id: str, segment_id: str, text: str, seconds: float, speaker: str) -> ServerEvent:
    """Who said it; one turn is one segment."""
    return {
        "type": f"{TRANSCRIPTION}.segment",
        "id": segment_id,
        "item_id": item_id,
        "content_index": 0,
        "text": text,
        "speaker": speaker,
        "start": 0.0,
        "end": round(seconds, 3),
    }


def transcript_completed(
    item_id: str, transcript: str, seconds: float, speaker: str | None, logprobs: list[dict[str, Any]] | None = None
) -> ServerEvent:
    event = {
        "type": f"{TRANSCRIPTION}.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript,
        "usage": {"type": "duration", "seconds": round(seconds, 3)},
        "speaker": speaker,
    }
    return event if logprobs is None else event | {"logprobs": logprobs}


def transcript_failed(item_id: str, message: str) -> ServerEvent:
    details = {"type": "server_error", "code": "transcription_failed", "message": message, "param": None}
    return {"type": f"{TRANSCRIPTION}.failed", "item_id": item_id, "content_index": 0, "error": details}


def speaker_name(number: int) -> str:
    return f"speaker {number}"


def message_item(item_id: str, role: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """A message of the conversation; audio is sent back only where somebody retrieves it."""
    message = {"id": item_id, "object": "realtime.item", "type": "message", "role": role}
    return {**message, "status": status, "content": content}


def call_item(item_id: str, status: str, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A function call of the model."""
    call = {"id": item_id, "object": "realtime.item", "type": "function_call", "status": status}
    return {**call, "call_id": call_id, "name": name, "arguments": arguments}


def call_output_item(item_id: str, call_id: str, output: str) -> dict[str, Any]:
    """What a function call gave."""
    done = {"id": item_id, "object": "realtime.item", "type": "function_call_output", "status": "completed"}
    return {**done, "call_id": call_id, "output": output}
