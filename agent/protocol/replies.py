"""The events of one response, in the one order they may come in, whatever becomes of it.

created, rate limits, then with the first piece: output item, conversation item, content part; deltas, of text or
of audio and its transcript; and at the end everything that was opened is closed and `response.done` is the last
word. Does no I/O.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.protocol.formats import PCM_24_KHZ, AudioFormat
from agent.protocol.server_events import ServerEvent, item_added, item_done, message_item, new_id

Ending = Literal["completed", "cancelled", "failed", "incomplete"]


@dataclass(slots=True)
class ReplyEvents:
    """One response with one message, in writing or spoken; remembers what it has opened."""

    conversation_id: str
    max_output_tokens: int | Literal["inf"]
    metadata: Mapping[str, str]
    voice: str | None = None  # None: in writing
    output_format: AudioFormat = PCM_24_KHZ
    response_id: str = field(default_factory=lambda: new_id("resp"))
    item_id: str = field(default_factory=lambda: new_id("item"))
    text: str = ""  # so far; of a spoken reply, its transcript
    status: Literal["in_progress"] | Ending = "in_progress"
    opened: bool = False  # the item is known to the client
    _previous_item_id: str | None = None

    def begin(self) -> list[ServerEvent]:
        """The response exists."""
        limits: ServerEvent = {"type": "rate_limits.updated", "rate_limits": []}  # there are none
        return [{"type": "response.created", "response": self._response(None, None)}, limits]

    def open(self, previous_item_id: str | None) -> list[ServerEvent]:
        """The message exists, as yet empty; `previous_item_id` is the last of the conversation."""
        self.opened, self._previous_item_id = True, previous_item_id
        item = self._item([])
        return [
            {"type": "response.output_item.added", **self._place(item=False), "item": item},
            item_added(item, previous_item_id),
            {"type": "response.content_part.added", **self._place(), "part": self._part()},
        ]

    def piece(self, delta: str) -> ServerEvent:
        """More text. Raises ValueError outside an open response."""
        self._require_open()
        self.text += delta
        kind = "output_audio_transcript" if self.voice else "output_text"
        return {"type": f"response.{kind}.delta", **self._place(), "delta": delta}

    def audio(self, audio: bytes) -> ServerEvent:
        """More audio, of the text before. Raises ValueError outside an open response."""
        self._require_open()
        return {"type": "response.output_audio.delta", **self._place(), "delta": base64.b64encode(audio).decode()}

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
        self.status = ending
        details: dict[str, Any] = {"type": ending}
        if reason is not None:
            details["reason"] = reason
        if failure is not None:
            details["error"] = {"type": "server_error", "code": "model_error", "message": failure}
        response = self._response(None if ending == "completed" else details, usage)
        done: ServerEvent = {"type": "response.done", "response": response, "wavllm_latency": latency}
        return [*(self._close() if self.opened else []), done]

    def _require_open(self) -> None:
        if not self.opened or self.status != "in_progress":
            raise ValueError(f"more of a response that is {self.status}, opened: {self.opened}")

    def _close(self) -> list[ServerEvent]:
        place, item = self._place(), self._item([self._content()])
        return [
            *self._close_text(place),
            {"type": "response.content_part.done", **place, "part": self._part()},
            {"type": "response.output_item.done", **self._place(item=False), "item": item},
            item_done(item, self._previous_item_id),
        ]

    def _close_text(self, place: dict[str, Any]) -> list[ServerEvent]:
        if self.voice is None:
            return [{"type": "response.output_text.done", **place, "text": self.text}]
        return [
            {"type": "response.output_audio.done", **place},
            {"type": "response.output_audio_transcript.done", **place, "transcript": self.text},
        ]

    def _part(self) -> dict[str, Any]:
        return {"type": "audio", "transcript": self.text} if self.voice else {"type": "text", "text": self.text}

    def _content(self) -> dict[str, Any]:
        kind, name = ("output_audio", "transcript") if self.voice else ("output_text", "text")
        return {"type": kind, name: self.text}

    def _place(self, *, item: bool = True) -> dict[str, Any]:
        """Where in the conversation an event belongs; `item`: to the text inside the message."""
        place = {"response_id": self.response_id, "output_index": 0}
        return {**place, "item_id": self.item_id, "content_index": 0} if item else place

    def _item(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        status = "incomplete" if self.status in ("cancelled", "failed") else self.status
        return message_item(self.item_id, "assistant", status, content)

    def _response(self, details: dict[str, Any] | None, usage: dict[str, Any] | None) -> dict[str, Any]:
        over = self.status != "in_progress" and self.opened
        return {
            "id": self.response_id,
            "object": "realtime.response",
            "status": self.status,
            "status_details": details,
            "output": [self._item([self._content()])] if over else [],
            "conversation_id": self.conversation_id,
            "output_modalities": ["audio" if self.voice else "text"],
            "audio": {"output": {"format": self.output_format.to_wire(), "voice": self.voice}} if self.voice else None,
            "max_output_tokens": self.max_output_tokens,
            "usage": usage,
            "metadata": dict(self.metadata) or None,
        }
