"""The messages of Rhasspy's Hermes protocol that the gateway speaks: JSON in camelCase, and whole WAV files of audio.

Pure functions; what each topic is for stands in docs/mqtt.md. Every length is looked at before anything is made of
a payload. Knows neither broker nor session.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from agent.protocol.errors import ProtocolError
from clients.mqtt.topics import MAX_LINE_CHARS, MAX_LINE_ID_CHARS, read_json, shown
from clients.realtime import SAMPLE_RATE

ROOT: Final = "hermes"
DEFAULT_SITE: Final = "default"
MAX_FRAME_BYTES: Final = 2 * SAMPLE_RATE + 1_024  # a second, and room for what else a WAV file may hold
MAX_CUSTOM_CHARS: Final = 1_024
COMMANDS: Final = {  # what others may ask for, and which part of Hermes complains when it cannot be
    "hotword/+/detected": "hotword",
    "asr/startListening": "asr",
    "asr/stopListening": "asr",
    "tts/say": "tts",
    "dialogueManager/startSession": "dialogueManager",
    "dialogueManager/continueSession": "dialogueManager",
    "dialogueManager/endSession": "dialogueManager",
}
BY_SESSION: Final = ("continueSession", "endSession")  # they name no site
DETECTED: Final = re.compile(r"hotword/([^/+#]{1,64})/detected")
RIFF: Final = Struct("<4sI4s")
CHUNK: Final = Struct("<4sI")
FORMAT: Final = Struct("<HHIIHH")
PCM_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Command:
    """Something that is asked of a site."""

    kind: str  # "detected", "startListening", ...
    site: str  # "": whoever has the session
    session_id: str | None = None
    wakeword_id: str | None = None
    text: str | None = None
    say_id: str | None = None
    custom_data: str | None = None
    notify: bool = False  # of a new session: say the text, and do not listen
    can_wait: bool = True  # of a new session: until the one under way is over


def subscriptions(sites: Collection[str]) -> list[str]:
    """What to subscribe to for these sites: their audio alone, and everybody's commands, which name the site inside."""
    audio = [
        name for site in sorted(sites) for name in (audio_topic(site, "audioFrame"), audio_topic(site, "playFinished"))
    ]
    return [*audio, *(f"{ROOT}/{command}" for command in COMMANDS)] if sites else []


def audio_topic(site: str, *channel: str) -> str:
    return "/".join((ROOT, "audioServer", site, *channel))


def site_of_audio(topic: str) -> str | None:
    """Whose audio a topic is about; None: it is none of those."""
    parts = topic.split("/")
    return parts[2] if len(parts) == 4 and parts[1] == "audioServer" else None


def component(topic: str) -> str:
    """The part of Hermes that a complaint about a message is published for."""
    name = topic.removeprefix(f"{ROOT}/")
    if DETECTED.fullmatch(name):
        return "hotword"
    return COMMANDS.get(name, "audioServer/record")


def parse_command(topic: str, payload: bytes) -> Command:
    """Read a message of one of COMMANDS. Raises ProtocolError when it is none."""
    fields = read_json(payload)
    site = fields.optional_text("siteId", MAX_LINE_ID_CHARS) or DEFAULT_SITE
    session_id = fields.optional_text("sessionId", MAX_LINE_ID_CHARS)
    name = topic.removeprefix(f"{ROOT}/")
    if found := DETECTED.fullmatch(name):
        return Command("detected", site, session_id, wakeword_id=found[1])
    if name not in COMMANDS:
        raise ProtocolError("unknown_topic", f"topic {shown(topic)} is not understood")
    kind = name.rpartition("/")[2]
    if kind == "startSession":
        custom_data = fields.optional_text("customData", MAX_CUSTOM_CHARS)
        start = fields.object("init")
        notify = start.choice("type", ["action", "notification"]) == "notification"
        text = start.text("text", MAX_LINE_CHARS) if notify else start.optional_text("text", MAX_LINE_CHARS)
        can_wait = start.values.get("canBeEnqueued") is not False
        return Command(kind, site, text=text, custom_data=custom_data, notify=notify, can_wait=can_wait)
    if kind in BY_SESSION:
        session_id = fields.text("sessionId", MAX_LINE_ID_CHARS)
        return Command(kind, "", session_id, text=fields.optional_text("text", MAX_LINE_CHARS))
    if kind == "say":
        text, say_id = fields.text("text", MAX_LINE_CHARS), fields.optional_text("id", MAX_LINE_ID_CHARS)
        return Command(kind, site, session_id, text=text, say_id=say_id)
    return Command(kind, site, session_id, fields.optional_text("wakewordId", MAX_LINE_ID_CHARS))


def parse_finished(payload: bytes) -> str | None:
    """Which audio a site has played: the id of its request. Raises ProtocolError when that cannot be read."""
    return read_json(payload).optional_text("id", MAX_LINE_ID_CHARS)


def read_wav(payload: bytes) -> bytes:
    """The samples of a WAV file of 16-bit mono at 16 kHz, which is one chunk of a stream.

    Raises ProtocolError when it is another, or when its headers say what the payload does not hold.
    """
    if len(payload) > MAX_FRAME_BYTES:
        text = f"a frame has {len(payload)} bytes; the limit is {MAX_FRAME_BYTES}: a second"
        raise ProtocolError("message_too_large", text)
    if len(payload) < RIFF.size or payload[:4] != b"RIFF" or payload[8:12] != b"WAVE":
        raise ProtocolError("invalid_audio", f"{len(payload)} bytes is not a WAV file")
    _, riff_bytes, _ = RIFF.unpack_from(payload)
    if riff_bytes != len(payload) - 8:
        raise _lie("the file", riff_bytes, len(payload) - 8)
    known, offset = False, RIFF.size
    while offset + CHUNK.size <= len(payload):
        name, size = CHUNK.unpack_from(payload, offset)
        offset += CHUNK.size
        if size > len(payload) - offset:
            raise _lie(f"chunk {name!r}", size, len(payload) - offset)
        if name == b"fmt ":
            _check_format(payload[offset : offset + size])
            known = True
        elif name == b"data":
            if not known or size % 2:
                raise ProtocolError("invalid_audio", "samples come before their format, or are not of 16 bits")
            return payload[offset : offset + size]
        offset += size + size % 2
    raise ProtocolError("invalid_audio", "the WAV file holds no samples")


def write_wav(pcm: bytes, rate_hz: int) -> bytes:
    """A WAV file of 16-bit mono samples."""
    wave_format = FORMAT.pack(PCM_FORMAT, 1, rate_hz, 2 * rate_hz, 2, 16)
    chunks = CHUNK.pack(b"fmt ", len(wave_format)) + wave_format + CHUNK.pack(b"data", len(pcm)) + pcm
    return RIFF.pack(b"RIFF", 4 + len(chunks), b"WAVE") + chunks


def captured(text: str, seconds: float, values: dict[str, Any]) -> dict[str, Any]:
    """What was heard; there is no measure of how likely it is, so it is certain."""
    return {"text": text, "likelihood": 1.0, "seconds": round(seconds, 2), "asrTokens": None, "lang": None, **values}


def _check_format(values: bytes) -> None:
    if len(values) < FORMAT.size:
        raise ProtocolError("invalid_audio", "the format of the WAV file is cut off")
    kind, channels, rate_hz, _, _, bits = FORMAT.unpack_from(values)
    if (kind, channels, rate_hz, bits) != (PCM_FORMAT, 1, SAMPLE_RATE, 16):
        told = f"format {kind}, {channels} channels, {rate_hz} Hz, {bits} bits"
        raise ProtocolError("invalid_audio", f"audio must be PCM, mono, {SAMPLE_RATE} Hz, 16 bits, not {told}")


def _lie(what: str, said: int, there: int) -> ProtocolError:
    return ProtocolError("invalid_audio", f"{what} claims {said} bytes; there are {there}")
