"""The events of one response, in the one order they may come in, whatever becomes of it.

created, rate limits; a message: output item, conversation item, content part, deltas, of text or of audio and its
transcript, and all of it closed before the next item begins; a function call is written at once. At the end what is
open is closed, and `response.done` is the last word. Does no I/O.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agent.protocol.formats import PCM_24_KHZ, AudioFormat
from agent.protocol.server_events import ServerEvent, call_item, item_added, item_done, message_item

Ending = Literal["completed", "cancelled", "failed", "incomplete"]
ENDED_STATUS: Final = {"completed": "completed", "cancelled": "incomplete", "failed": "incomplete"}


@dataclass(slots=True)
class _Message:
    """The one that is open."""

    item_id: str
    previous_item_id: str | None
    text: str = ""


@dataclass(slots=True)
class ReplyEvents:
    """One response; remembers what it has opened."""

    response_id: str
    conversation_id: str | None  # None: out of band, and its items are part of no conversation
    max_output_tokens: int | Literal["inf"]
    metadata: Mapping[str, str]
    voice: str | None = None  # None: in writing
    output_format: AudioFormat = PCM_24_KHZ
    resumes: str | None = None  # the response that this one goes on with
    status: Literal["in_progress"] | Ending = "in_progress"
    _message: _Message | None = None
    _output: list[dict[str, Any]] = field(default_factory=list)  # items that are closed

    @property
    def opened(self) -> bool:
        """Whether a message is open."""
        return self._message is not None

    @property
    def text(self) -> str:
        """Of the message that is open."""
        return self._message.text if self._message else ""

    @property
    def empty(self) -> bool:
        """Whether there is no item yet."""
        return not self._output and not self._message

    def begin(self) -> list[ServerEvent]:
        """The response exists."""
        limits: ServerEvent = {"type": "rate_limits.updated", "rate_limits": []}  # there are none
        resumes = {"wavllm_resumes": self.resumes} if self.resumes else {}
        return [{"type": "response.created", "response": self._response(None, None), **resumes}, limits]

    def open(self, item_id: str, previous_item_id: str | None) -> list[ServerEvent]:
        """A message exists, as yet empty; `previous_item_id` is the item before it."""
        self._message = _Message(item_id, previous_item_id)
        item = message_item(item_id, "assistant", "in_progress", [])
        return [
            {"type": "response.output_item.added", **self._place(), "item": item},
            *self._in_conversation(item_added(item, previous_item_id)),
            {"type": "response.content_part.added", **self._place(item_id), "content_index": 0, "part": self._part("")},
        ]

    def piece(self, delta: str) -> ServerEvent:
        """More text. Raises ValueError outside an open message."""
        message = self._open_message()
        message.text += delta
        kind = "output_audio_transcript" if self.voice else "output_text"
        return {"type": f"response.{kind}.delta", **self._place(message.item_id), "content_index": 0, "delta": delta}

    def audio(self, audio: bytes) -> ServerEvent:
        """More audio, of the text before. Raises ValueError outside an open message."""
        place, delta = self._place(self._open_message().item_id), base64.b64encode(audio).decode()
        return {"type": "response.output_audio.delta", **place, "content_index": 0, "delta": delta}

    def close(self, ending: Ending = "completed") -> list[ServerEvent]:
        """The message is complete, or as complete as it gets. Raises ValueError when none is open."""
        message = self._open_message()
        text, place = message.text, {**self._place(message.item_id), "content_index": 0}
        kind, name = ("output_audio", "transcript") if self.voice else ("output_text", "text")
        status = ENDED_STATUS.get(ending, ending)
        item = message_item(message.item_id, "assistant", status, [{"type": kind, name: text}])
        if self.voice is None:
            texts: list[ServerEvent] = [{"type": "response.output_text.done", **place, "text": text}]
        else:
            texts = [
                {"type": "response.output_audio.done", **place},
                {"type": "response.output_audio_transcript.done", **place, "transcript": text},
            ]
        events = [
            *texts,
            {"type": "response.content_part.done", **place, "part": self._part(text)},
            {"type": "response.output_item.done", **self._place(), "item": item},
            *self._in_conversation(item_done(item, message.previous_item_id)),
        ]
        self._message = None
        self._output.append(item)
        return events

    def call(
        self, item_id: str, call_id: str, name: str, arguments: str, previous_item_id: str | None
    ) -> list[ServerEvent]:
        """The model calls a function. Raises ValueError while a message is open, or when the response is over."""
        if self.opened or self.status != "in_progress":
            raise ValueError(f"a call in a response that is {self.status}, with a message open: {self.opened}")
        begun = call_item(item_id, "in_progress", call_id, name, "")
        item = call_item(item_id, "completed", call_id, name, arguments)
        place, kind = {**self._place(item_id), "call_id": call_id}, "response.function_call_arguments"
        events: list[ServerEvent] = [
            {"type": "response.output_item.added", **self._place(), "item": begun},
            *self._in_conversation(item_added(begun, previous_item_id)),
            {"type": f"{kind}.delta", **place, "delta": arguments},
            {"type": f"{kind}.done", **place, "name": name, "arguments": arguments},
            {"type": "response.output_item.done", **self._place(), "item": item},
            *self._in_conversation(item_done(item, previous_item_id)),
        ]
        self._output.append(item)
        return events

    def end(
        self,
        ending: Ending,
        *,
        usage: dict[str, Any] | None,
        reason: str | None = None,
        failure: str | None = None,
        latency: dict[str, float | None] | None = None,
    ) -> list[ServerEvent]:
        """Close what is open. Raises ValueError when the response is over already."""
        if self.status != "in_progress":
            raise ValueError(f"the response is {self.status} already")
        closing = self.close(ending) if self.opened else []
        self.status = ending
        details: dict[str, Any] = {"type": ending}
        if reason is not None:
            details["reason"] = reason
        if failure is not None:
            details["error"] = {"type": "server_error", "code": "model_error", "message": failure}
        response = self._response(None if ending == "completed" else details, usage)
        return [*closing, {"type": "response.done", "response": response, "wavllm_latency": latency}]

    def _open_message(self) -> _Message:
        if self._message is None or self.status != "in_progress":
            raise ValueError(f"no message is open in a response that is {self.status}")
        return self._message

    def _in_conversation(self, event: ServerEvent) -> list[ServerEvent]:
        return [] if self.conversation_id is None else [event]

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "audio", "transcript": text} if self.voice else {"type": "text", "text": text}

    def _place(self, item_id: str | None = None) -> dict[str, Any]:
        """Where in the response an event belongs; `item_id`: inside that item, which is the last."""
        place = {"response_id": self.response_id, "output_index": len(self._output)}
        return place if item_id is None else {**place, "item_id": item_id}

    def _response(self, details: dict[str, Any] | None, usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self.response_id,
            "object": "realtime.response",
            "status": self.status,
            "status_details": details,
            "output": list(self._output),
            "conversation_id": self.conversation_id,
            "output_modalities": ["audio" if self.voice else "text"],
            "audio": {"output": {"format": self.output_format.to_wire(), "voice": self.voice}} if self.voice else None,
            "max_output_tokens": self.max_output_tokens,
            "usage": usage,
            "metadata": dict(self.metadata) or None,
        }
