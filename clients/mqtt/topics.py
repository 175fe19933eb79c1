"""The topics and payloads between a device and the gateway, version 1: `wavllm/1/DEVICE/CHANNEL`.

Pure functions; what each channel is for and how it is delivered stands in docs/mqtt.md. Every length is
looked at before anything is made of a payload. Knows neither broker nor server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar, Final, Self

from agent.protocol.errors import ProtocolError
from agent.protocol.fields import MAX_SHOWN_CHARS, Fields
from agent.protocol.server_events import new_id

ROOT: Final = "wavllm/1"
GATEWAY: Final = "gateway"  # stands where a device would; so no device may have this name
UP: Final = ("audio", "text", "mute", "tools", "result")
DOWN: Final = ("call", "state", "transcript", "reply", "speaker", "latency", "timer", "error")
MAX_DEVICE_CHARS: Final = 64
MAX_AUDIO_SAMPLES: Final = 16_000  # of one message: a second
MAX_LINE_BYTES: Final = 16_384
MAX_LINE_CHARS: Final = 4_096
MAX_LINE_ID_CHARS: Final = 64
DEVICE_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")  # what Home Assistant allows as well

Values = Mapping[str, Any]  # of a payload in JSON


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish, with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False
    confirmed: Callable[[], None] | None = None  # to be told that the broker has it


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Microphone audio: an 8-byte position and then the samples; none of them: the stream pauses here."""

    HEADER: ClassVar[Struct] = Struct("<Q")
    start_sample: int  # position in the device's stream, at 16 kHz
    pcm: bytes  # 16-bit little-endian mono

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2

    def encode(self) -> bytes:
        return self.HEADER.pack(self.start_sample) + self.pcm

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises ProtocolError when `payload` cannot be audio."""
        pcm_bytes = len(payload) - cls.HEADER.size
        if pcm_bytes > 2 * MAX_AUDIO_SAMPLES:
            limit = cls.HEADER.size + 2 * MAX_AUDIO_SAMPLES
            raise ProtocolError("message_too_large", f"audio has {len(payload)} bytes; the limit is {limit}")
        if pcm_bytes < 0 or pcm_bytes % 2:
            message = f"{len(payload)} bytes is not audio: 8 bytes of position, then 16-bit samples"
            raise ProtocolError("invalid_audio", message)
        (start_sample,) = cls.HEADER.unpack_from(payload)
        return cls(start_sample, payload[cls.HEADER.size :])


@dataclass(frozen=True, slots=True)
class Line:
    """Something typed: the reply carries its id, and a line whose id came before is not asked again."""

    id: str
    text: str
    verbatim: bool = False  # not to be answered: to be said, word for word

    def encode(self) -> bytes:
        return encode({"id": self.id, "text": self.text})

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises ProtocolError when `payload` is no such line; one without an id gets one."""
        fields = read_json(payload)
        text = fields.text("text", MAX_LINE_CHARS)
        if not text.strip():
            raise fields.wrong("text", "something to say")
        line_id = fields.optional_text("id", MAX_LINE_ID_CHARS)
        if line_id == "":
            raise fields.wrong("id", "a string that is not empty")
        return cls(line_id or new_id("line"), text)


def read_switch(payload: bytes) -> bool:
    """Whether a switch is to be on. Raises ProtocolError when the payload is neither ON nor OFF."""
    if payload not in (b"ON", b"OFF"):
        raise ProtocolError("invalid_value", f"a switch is ON or OFF, not {shown(payload.decode(errors='replace'))}")
    return payload == b"ON"


def check_device(name: str) -> str:
    """The name, if a device may have it. Raises ProtocolError which says why not."""
    if not name:
        raise ProtocolError("invalid_device", "the name of the device is empty")
    if len(name) > MAX_DEVICE_CHARS:
        message = f"the name of the device has {len(name)} characters; the limit is {MAX_DEVICE_CHARS}"
        raise ProtocolError("invalid_device", message)
    if not DEVICE_NAME.fullmatch(name):
        raise ProtocolError("invalid_device", f"device {shown(name)}: only letters, digits, _ and - make a name")
    if name == GATEWAY:
        raise ProtocolError("invalid_device", f"no device may be called {GATEWAY!r}: the gateway is")
    return name


def topic(device: str, channel: str) -> str:
    return f"{ROOT}/{device}/{channel}"


def split(topic: str) -> tuple[str, str]:
    """Device and channel of a topic. Raises ProtocolError when it is not one of version 1."""
    parts = topic.removeprefix(f"{ROOT}/").split("/")
    if not topic.startswith(f"{ROOT}/") or len(parts) != 2:
        raise ProtocolError("unknown_topic", f"topic {shown(topic)} is not {ROOT}/DEVICE/CHANNEL")
    device, channel = parts
    return check_device(device), channel


def encode(values: Values) -> bytes:
    """JSON, as small as it gets."""
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def error_values(error: ProtocolError) -> Values:
    """The payload of a complaint."""
    return {"code": error.code, "message": error.message, "param": error.param}


def read_json(payload: bytes) -> Fields:
    """The fields of a JSON object. Raises ProtocolError when it is none, or too large."""
    if len(payload) > MAX_LINE_BYTES:
        message = f"the message has {len(payload)} bytes; the limit is {MAX_LINE_BYTES}"
        raise ProtocolError("message_too_large", message)
    try:
        values = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", f"the message is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ProtocolError("invalid_json", 'the message must be a JSON object like {"text": "hello"}')
    return Fields(values)


def shown(text: str) -> str:
    """A name as a complaint quotes it."""
    return repr(text[:MAX_SHOWN_CHARS])
