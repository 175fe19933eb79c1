"""A conversation with a server that speaks OpenAI Realtime, as a small library.

    async with connect() as conversation:
        await conversation.send_audio(waveform)
        async for event in conversation:
            print(event["type"])

Owns the socket and the spelling of what is sent. Does not interpret what arrives: see `turns`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI

DEFAULT_URL: Final = "ws://127.0.0.1:8710/v1/realtime"
SAMPLE_RATE: Final = 16_000
MAX_EVENT_BYTES: Final = 16 * 2**20
GREETING_S: Final = 10.0  # for a server to greet, and to take the settings
KEY_VARIABLE: Final = "WAVLLM_API_KEY"  # of the environment: the key to show a server that wants one
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

Event = dict[str, Any]
Waveform = npt.NDArray[np.float32]  # (samples,) at SAMPLE_RATE in [-1, 1]


class ClientError(Exception):
    """Something the person at the client can put right; the message says what."""


class Conversation:
    """One open conversation: audio and typed text go in, events come out."""

    def __init__(
        self, socket: ClientConnection, spoken: bool = False, extensions: frozenset[str] = frozenset()
    ) -> None:
        self._socket = socket
        self.spoken = spoken  # replies come as audio
        self.extensions = extensions  # to OpenAI Realtime, that the server announces

    async def send(self, event: Event) -> None:
        """Send any client event as it stands. Raises ClientError when the server is gone."""
        try:
            await self._socket.send(json.dumps(event))
        except ConnectionClosed as closed:
            raise _lost(closed) from closed

    async def send_audio(self, waveform: Waveform) -> None:
        """Append audio to what the person is saying; the server decides where the turn ends."""
        await self.send_pcm(to_pcm(waveform))

    async def send_pcm(self, pcm: bytes) -> None:
        """The same for 16-bit little-endian mono samples at 16 kHz."""
        audio = base64.b64encode(pcm).decode("ascii")
        await self.send({"type": "input_audio_buffer.append", "audio": audio})

    async def send_text(self, text: str) -> None:
        """Say something in writing, and ask for the answer."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send({"type": "conversation.item.create", "item": item})
        await self.send({"type": "response.create"})

    async def truncate(self, item_id: str, heard_ms: int) -> None:
        """Tell how much of a spoken reply was heard before it was cut off."""
        cut = {"item_id": item_id, "content_index": 0, "audio_end_ms": heard_ms}
        await self.send({"type": "conversation.item.truncate", **cut})

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Every event of the server until it closes. Raises ClientError when the connection breaks."""
        try:
            async for message in self._socket:
                yield json.loads(message)
        except ConnectionClosed as closed:
            raise _lost(closed) from closed


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL, instructions: str | None = None, *, spoken: bool = False
) -> AsyncIterator[Conversation]:
    """Open a conversation, ready for audio at 16 kHz.

    instructions: the system prompt; None leaves the server's own
    spoken: replies are wanted as audio at 24 kHz; a server without a voice sends text all the same
    Raises ClientError when no such server is there, or when it refuses the session.
    """
    session: Event = {
        "type": "realtime",
        "output_modalities": ["text"],
        "audio": {"input": {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}},
    }
    if instructions is not None:
        session["instructions"] = instructions
    socket = await _open(url)
    async with socket:
        created = await _expect(socket, "session.created")
        extensions = frozenset(created.get("wavllm", {}).get("extensions", []))
        conversation = Conversation(socket, spoken and "output" in created["session"].get("audio", {}), extensions)
        if extensions:
            session["wavllm"] = {}  # asks for the events among them
        if conversation.spoken:
            session["output_modalities"] = ["audio"]
        await conversation.send({"type": "session.update", "session": session})
        await _expect(socket, "session.updated")
        yield conversation


def to_pcm(waveform: Waveform) -> bytes:
    """16-bit little-endian samples; what lies outside [-1, 1] is clipped."""
    return (np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2").tobytes()


async def _open(url: str) -> ClientConnection:
    key = os.environ.get(KEY_VARIABLE)
    shown = {"Authorization": f"Bearer {key}"} if key else None
    try:
        if urlsplit(url).hostname in LOOPBACK:  # a proxy of the environment could not reach this machine
            return await open_websocket(url, additional_headers=shown, max_size=MAX_EVENT_BYTES, proxy=None)
        return await open_websocket(url, additional_headers=shown, max_size=MAX_EVENT_BYTES)
    except (InvalidURI, ValueError) as error:
        raise ClientError(f"{url} is not a WebSocket address: {error}") from error
    except (InvalidProxy, ImportError) as error:  # SOCKS needs one more package
        raise ClientError(f"the proxy of the environment is of no use for {url}: {error}") from error
    except InvalidStatus as refusal:
        raise ClientError(f"{url} refused the session: {_reason(refusal)}") from refusal
    except InvalidHandshake as error:
        raise ClientError(f"{url} answers, but not as a Realtime server: {error}") from error
    except OSError as error:  # time-outs are among them
        raise ClientError(f"no server at {url} ({error}); start one with: wavllm serve") from error


def _reason(refusal: InvalidStatus) -> str:
    """What the server says, where it says it in JSON; else the status."""
    try:
        message = str(json.loads(refusal.response.body or b"")["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return f"HTTP status {refusal.response.status_code}"
    return f"{message} (the key comes from {KEY_VARIABLE})" if refusal.response.status_code == 401 else message


async def _expect(socket: ClientConnection, kind: str) -> Event:
    try:
        async with asyncio.timeout(GREETING_S):
            event: Event = json.loads(await socket.recv())
        told = event["type"]
    except ConnectionClosed as closed:
        raise _lost(closed) from closed
    except TimeoutError as silence:
        raise ClientError(f"the server was silent for {GREETING_S:g} s where {kind} was due") from silence
    except (ValueError, TypeError, KeyError) as error:
        raise ClientError(f"the server sent no event where {kind} was due: it is no Realtime server") from error
    if told == "error":
        raise ClientError(f"the server refused the session: {event['error']['message']}")
    if told != kind:
        raise ClientError(f"the server sent {told} where {kind} was due")
    return event


def _lost(closed: ConnectionClosed) -> ClientError:
    reason = f"{closed.rcvd.code} {closed.rcvd.reason}".strip() if closed.rcvd else "without a word"
    return ClientError(f"the server closed the connection ({reason})")
