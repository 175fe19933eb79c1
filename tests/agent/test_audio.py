"""Audio of every format, both ways."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import pytest

from agent.hearing.audio import Decoder, Encoder, compress, expand
from agent.protocol.client_events import AudioAppend, parse_client_event
from agent.protocol.formats import PCM_RATES_HZ, AudioFormat
from agent.speech.voice import VOICE_RATE
from tests.agent.harness import running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice

LAWS = ("audio/pcmu", "audio/pcma")
FORMATS = [
    *(AudioFormat(rate_hz=rate) for rate in PCM_RATES_HZ),
    AudioFormat("audio/pcmu", 8_000),
    AudioFormat("audio/pcma", 8_000),
]
BYTES, SAMPLES = bytes(range(256)), np.arange(65_536).astype("<u2").tobytes()


def named(audio_format: AudioFormat) -> str:
    return f"{audio_format.type}-{audio_format.rate_hz}"


@pytest.mark.parametrize(
    ("law", "expanded", "compressed"), [(LAWS[0], 210008735, 262314186), (LAWS[1], 2641774167, 2866450441)]
)
def test_g711_is_what_the_standard_library_had(law: str, expanded: int, compressed: int) -> None:
    """Checksums of audioop.ulaw2lin, lin2ulaw, alaw2lin and lin2alaw over all bytes and all samples (Python 3.11)."""
    assert zlib.crc32(expand(law, BYTES)) == expanded
    assert zlib.crc32(compress(law, SAMPLES)) == compressed


@pytest.mark.parametrize("audio_format", FORMATS, ids=named)
def test_a_tone_comes_through(audio_format: AudioFormat) -> None:
    """From a voice over the wire and into the model, in crumbs."""
    seconds = np.arange(VOICE_RATE) / VOICE_RATE
    pcm = (8_000 * np.sin(2 * np.pi * 440 * seconds)).astype("<i2").tobytes()
    encoder, decoder = Encoder(audio_format), Decoder(audio_format)
    sent = b"".join([encoder.push(pcm[start : start + 970]) for start in range(0, len(pcm), 970)]) + encoder.flush()
    assert len(sent) == pytest.approx(audio_format.bytes_per_s, rel=1e-3)
    heard = np.frombuffer(decoder.push(sent) + decoder.flush(), "<i2").astype(float)
    tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000)
    middle = slice(1_000, -1_000)
    assert np.sqrt(np.mean((heard - tone)[middle] ** 2)) < (100 if audio_format.type in LAWS else 5)


@pytest.mark.parametrize("audio_format", FORMATS, ids=named)
async def test_a_turn_in_any_format_is_answered_in_any_format(audio_format: AudioFormat) -> None:
    voice, engine = ScriptedVoice(), ScriptedEngine()
    at_16_khz = np.frombuffer(turn(), "<i2")
    rate = audio_format.rate_hz
    samples = at_16_khz[:: 16_000 // rate] if rate < 16_000 else np.repeat(at_16_khz, -(-rate // 16_000))
    samples = samples[np.arange(len(at_16_khz) * rate // 16_000) * len(samples) * 16_000 // (len(at_16_khz) * rate)]
    audio = samples.tobytes()
    if audio_format.type in LAWS:
        audio = compress(audio_format.type, audio)
    wire: dict[str, Any] = audio_format.to_wire()
    async with running(engine, voice=voice) as port, talking(port) as client:
        both = {"input": {"format": wire}, "output": {"format": wire}}
        session = (await client.configure(output_modalities=["audio"], audio=both))["session"]
        assert session["audio"]["input"]["format"] == session["audio"]["output"]["format"] == wire
        for start in range(0, len(audio), 999 * audio_format.sample_bytes):  # binary, as it is
            await client.socket.send(audio[start : start + 999 * audio_format.sample_bytes])
        done = await client.until("response.done")
        assert done["response"]["audio"]["output"]["format"] == wire
        deltas = [event["delta"] for event in client.seen if event["type"] == "response.output_audio.delta"]
        transcript = done["response"]["output"][0]["content"][0]["transcript"]
        seconds = len(ScriptedVoice.sound(transcript)) / 2 / VOICE_RATE
        assert sum(len(base64.b64decode(delta)) for delta in deltas) == pytest.approx(
            seconds * audio_format.bytes_per_s, abs=4
        )
    assert len(engine.heard[0]) / 16_000 == pytest.approx(0.8, abs=0.05)  # prefix, 400 ms of speech, tail


async def test_one_response_may_sound_otherwise() -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port, talking(port) as client:
        override = {"output_modalities": ["audio"], "audio": {"output": {"format": {"type": "audio/pcmu"}}}}
        await client.send("response.create", response=override)
        first = (await client.until("response.done"))["response"]
        await client.send("response.create", response={"output_modalities": ["audio"]})
        second = (await client.until("response.done"))["response"]
    formats = [response["audio"]["output"]["format"] for response in (first, second)]
    assert formats == [{"type": "audio/pcmu"}, {"type": "audio/pcm", "rate": 24_000}]


async def test_half_a_sample_is_refused_and_nothing_of_the_message_is_heard() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.socket.send(turn() * 2 + b"\x00")
        assert (await client.complaint())["code"] == "invalid_audio"
        await client.configure()
        assert not [kind for kind in client.kinds() if kind.startswith("input_audio_buffer")]


def test_a_binary_message_is_an_append() -> None:
    assert parse_client_event(b"\x01\x02") == AudioAppend(None, b"\x01\x02")
