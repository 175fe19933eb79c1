"""A server that says what it is told to, in the events of OpenAI Realtime; it hears by loudness."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection, serve

from clients.realtime import Event

QUIET_SAMPLES = 1600  # that end an utterance
SOUND = b"\1\0" * 28_800  # of every spoken reply: 1.2 s at 24 kHz
LATENCY = {"vad_wait_ms": 100.0, "first_token_ms": 20.0, "total_ms": 50.0}


def spoken_turn(
    number: int, transcript: str, reply: str, spoken: bool = False, status: str = "completed"
) -> list[Event]:
    """What a server sends from the end of an utterance on; here the transcript comes after the reply."""
    item, response = f"item_{number}", f"resp_{number}"
    transcription = "conversation.item.input_audio_transcription"
    return [
        {"type": "input_audio_buffer.speech_stopped", "item_id": item},
        {"type": "input_audio_buffer.committed", "item_id": item},
        speaker_told(item, 1, 0.9),
        {"type": f"{transcription}.delta", "item_id": item, "delta": transcript[:3]},
        *answer(response, reply, status, spoken=spoken),
        {
            "type": f"{transcription}.completed",
            "item_id": item,
            "transcript": transcript,
            "speaker": "speaker 1",
        },
    ]


def speaker_told(item: str, number: int, similarity: float) -> Event:
    told = {"speaker": f"speaker {number}", "number": number, "similarity": similarity}
    return {"type": "wavllm.speaker", "item_id": item, **told}


def answer(
    response: str, reply: str, status: str = "completed", metadata: dict[str, str] | None = None, spoken: bool = False
) -> list[Event]:
    kind = "output_audio_transcript" if spoken else "output_text"
    audio = base64.b64encode(SOUND).decode()
    return [
        {
            "type": "response.created",
            "response": {"id": response, "status": "in_progress", "metadata": metadata},
        },
        *({"type": f"response.{kind}.delta", "response_id": response, "delta": part} for part in reply),
        *([{"type": "response.output_audio.delta", "response_id": response, "delta": audio}] if spoken else []),
        {"type": "response.done", "response": {"id": response, "status": status}, "wavllm_latency": LATENCY},
    ]


@dataclass
class ScriptedServer:
    """Answers the next spoken turn with the next of `spoken`, and every typed text with its echo."""

    spoken: list[tuple[str, str]] = field(default_factory=list)
    status: str = "completed"  # of the answers to what is spoken
    refuse: bool = False  # the session
    mute: bool = False  # leaves what is typed without an answer
    hears_nothing: bool = False  # in what is spoken: it is committed, and nothing follows
    voice: bool = False  # can speak, and says given texts
    call: Event | None = None  # what the next reply to a typed text calls
    session_updates: list[Event] = field(default_factory=list)
    leave_after: str = ""  # an event of this type, close the connection
    stop_after: str = ""  # such, say nothing more until something is asked
    url: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    turns: int = 0
    _quiet: int | None = None  # samples since the last loud one; None: nobody speaks

    async def converse(self, socket: ServerConnection) -> None:
        created: Event = {"type": "session.created", "session": {}}
        if self.voice:
            created |= {"session": {"audio": {"output": {}}}, "wavllm": {"extensions": ["wavllm_say"]}}
        await socket.send(json.dumps(created))
        text = ""
        async for message in socket:
            event = json.loads(message)
            replies: list[Event] = []
            if event["type"] == "session.update" and self.refuse:
                replies = [{"type": "error", "error": {"message": "full"}}]
            elif event["type"] == "session.update":
                self.session |= event["session"]
                self.session_updates.append(event["session"])
                replies = [{"type": "session.updated", "session": self.session}]
            elif event["type"] == "conversation.item.create" and "output" in event["item"]:
                text = event["item"]["output"]
            elif event["type"] == "conversation.item.create":
                text = event["item"]["content"][0]["text"]
            elif event["type"] == "response.create" and not self.mute:
                self.turns += 1
                response = event.get("response", {})
                reply = response.get("wavllm_say") or f"you wrote {text}"
                metadata = response.get("metadata")
                replies = answer(f"resp_{self.turns}", reply, metadata=metadata, spoken=self.speaks)
                if self.call:
                    replies[-1]["response"]["output"], self.call = [self.call], None
            elif event["type"] == "input_audio_buffer.clear":
                self._quiet = None
            elif event["type"] == "input_audio_buffer.append":
                replies = self.listen(np.frombuffer(base64.b64decode(event["audio"]), "<i2"))
            for reply in replies:
                await socket.send(json.dumps(reply))
                if reply["type"] == self.leave_after:
                    return
                if reply["type"] == self.stop_after:
                    break

    @property
    def speaks(self) -> bool:
        return self.session.get("output_modalities") == ["audio"]

    def listen(self, samples: np.ndarray) -> list[Event]:
        self.samples += len(samples)
        if np.abs(samples).max(initial=0) > 1000:
            started = self._quiet is None
            self._quiet = 0
            item = f"item_{self.turns + 1}"
            if not started:
                return []
            guess = speaker_told(item, 2, 0.6) | {"provisional": True}
            return [{"type": "input_audio_buffer.speech_started", "item_id": item}, guess]
        if self._quiet is not None:
            self._quiet += len(samples)
            if self._quiet >= QUIET_SAMPLES:
                self._quiet = None
                self.turns += 1
                if self.hears_nothing:
                    return [{"type": "input_audio_buffer.committed", "item_id": f"item_{self.turns}"}]
                return spoken_turn(self.turns, *self.spoken.pop(0), self.speaks, self.status)
        return []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedServer]:
        async with serve(self.converse, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://127.0.0.1:{port}/v1/realtime"
            yield self
