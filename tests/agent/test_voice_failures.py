"""Voices, models and clients that fail while a reply is spoken: the words arrive, and nothing is left at work."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.speech.voice import EspeakVoice
from tests.agent.harness import Client, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.spoken import (
    AUDIO,
    CLOSING,
    SENTENCES,
    TEXT,
    TRANSCRIPT,
    heard,
    listening,
    read,
    round_trip,
    talkative,
)


async def replies_in_writing(client: Client, words: str, heard_text: str = "") -> None:
    """Two replies come whole, and the client is told once why it hears no more of them."""
    for _ in range(2):
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        assert client.kinds()[-len(CLOSING) :] == CLOSING
    assert read(client.seen) == 2 * TEXT
    assert heard(client.seen) == 2 * ScriptedVoice.sound(heard_text)
    (complaint,) = [event["error"] for event in client.seen if event["type"] == "error"]
    assert (complaint["type"], complaint["code"]) == ("server_error", "voice_failed")
    assert words in complaint["message"]


async def test_a_failing_voice_leaves_the_words_and_comes_back() -> None:
    voice = ScriptedVoice()
    voice.broken = True
    async with listening(talkative(), voice) as client:
        await replies_in_writing(client, "the voice is hoarse")
        assert voice.asked == [SENTENCES[0]] * 2  # not for every sentence
        voice.broken = False
        client.seen.clear()
        await client.send("response.create")
        await client.until("response.done")
        assert heard(client.seen) == ScriptedVoice.sound(TEXT)


async def test_a_voice_that_breaks_within_a_sentence() -> None:
    voice = ScriptedVoice()
    voice.breaks_after = 11  # the first sentence has as many, the second more
    async with listening(talkative(), voice) as client:
        await replies_in_writing(client, "the voice broke", TEXT[: 11 + 14])


async def test_a_hanging_voice_is_given_up() -> None:
    voice = ScriptedVoice()
    voice.works.clear()
    async with listening(talkative(), voice, timeout_ms=100) as client:
        await replies_in_writing(client, "no audio for 0.1 s")


async def test_a_program_that_is_missing_costs_the_sound_only() -> None:
    async with listening(talkative(), EspeakVoice(["no-such-voice"], "en", 1)) as client:
        await replies_in_writing(client, "no-such-voice is not installed")


async def test_a_cancelled_reply_leaves_neither_voice_nor_model_at_work() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["One latte. A", "nything else?"]
    engine.go_on.clear()
    voice.works.clear()
    async with listening(engine, voice) as client:
        await client.send("response.create")
        await client.until(TRANSCRIPT)
        async with asyncio.timeout(10):
            while not voice.running:
                await round_trip(client)
            await client.send("response.cancel")
            await client.until("response.done")
            while voice.running or engine.running:
                await round_trip(client)


async def test_a_program_that_hangs_is_killed_with_its_reply(tmp_path: Path) -> None:
    program, log = tmp_path / "voice", tmp_path / "log"
    program.write_text(f"#!/bin/sh\necho $$ > {log}.part; mv {log}.part {log}\nexec sleep 1000\n")
    program.chmod(0o755)
    async with listening(talkative(), EspeakVoice([str(program)], "en", 1), timeout_ms=60_000) as client:
        await client.send("response.create")
        await client.until(TRANSCRIPT)
        async with asyncio.timeout(10):
            while not log.exists():
                await round_trip(client)
            await client.send("response.cancel")
            done = await client.until("response.done")
            assert done["response"]["status"] == "cancelled"
            with pytest.raises(ProcessLookupError):
                while True:
                    os.kill(int(log.read_text()), 0)
                    await round_trip(client)
            reply = f"reply {done['response']['id']}"
            while any(task.get_name() == reply for task in asyncio.all_tasks()):  # until it has seen the end of it
                await round_trip(client)


async def test_a_failing_model_is_heard_as_far_as_it_came() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words, engine.mute = ["One latte. And a ", "never said"], True
    async with listening(engine, voice) as client:
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        assert read(client.seen) == "One latte. And a "
        assert heard(client.seen) == ScriptedVoice.sound("One latte. And a ")
        assert client.kinds()[-len(CLOSING) :] == CLOSING


async def test_a_client_that_leaves_while_it_is_spoken_to() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["word " * 100]
    async with listening(engine, voice, lead_ms=200) as client:
        await client.append(turn())
        await client.until(AUDIO)
    assert voice.asked
