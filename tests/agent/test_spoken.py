"""Replies that are spoken: what a client hears, when, and what becomes of it when somebody interrupts."""

from __future__ import annotations

import base64
import time
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from agent.protocol.server_events import EXTENSIONS
from agent.speech.voice import EspeakVoice, program_command
from tests.agent.harness import Event, running, talking
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.spoken import (
    AUDIO,
    CLOSING,
    MS_PER_CHAR,
    OPENING,
    SENTENCES,
    TEXT,
    TRANSCRIPT,
    half_heard,
    heard,
    listening,
    read,
    round_trip,
    talkative,
)


async def test_events_come_in_the_canonical_order_and_words_with_their_audio() -> None:
    voice = ScriptedVoice()
    async with listening(talkative(), voice) as client:
        await client.send("response.create")
        done = await client.until("response.done")
        assert heard(client.seen) == ScriptedVoice.sound(TEXT)
        kinds = [kind for kind, _ in groupby(client.kinds())]
        assert kinds == [*OPENING, *[TRANSCRIPT, AUDIO] * 3, *CLOSING]
        position = 0  # in the audio; every sentence is told where it begins
        for event in client.seen:
            if event["type"] == TRANSCRIPT:
                assert position == len(ScriptedVoice.sound(TEXT[: TEXT.index(event["delta"])]))
            elif event["type"] == AUDIO:
                position += len(base64.b64decode(event["delta"]))
                assert len(base64.b64decode(event["delta"])) <= 4_800
        assert voice.asked == SENTENCES
        of = {event["type"]: event for event in client.seen}
        assert of["response.content_part.added"]["part"] == {"type": "audio", "transcript": ""}
        assert of["response.content_part.done"]["part"] == {"type": "audio", "transcript": TEXT}
        assert of["response.output_audio_transcript.done"]["transcript"] == TEXT
        content = [{"type": "output_audio", "transcript": TEXT}]
        assert of["conversation.item.done"]["item"]["content"] == content
        response = done["response"]
        assert (response["status"], response["output"][0]["content"]) == ("completed", content)
        assert response["output_modalities"] == ["audio"]
        assert response["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}
        assert response["usage"]["output_token_details"]["audio_tokens"] == round(len(TEXT) * MS_PER_CHAR / 50)
        latency = done["wavllm_latency"]
        assert latency["first_token_ms"] <= latency["first_sentence_ms"] <= latency["first_audio_ms"]
        assert latency["first_audio_ms"] <= latency["total_ms"]


async def test_the_sdk_hears_the_reply_to_what_was_said() -> None:
    voice = ScriptedVoice()
    async with running(talkative(), voice=voice) as port:
        client = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
        async with client.realtime.connect(model="wavllm", websocket_connection_options={"proxy": None}) as connection:
            created = await connection.recv()
            assert created.type == "session.created"
            assert created.session.output_modalities == ["text"]  # type: ignore[union-attr]
            output: Any = {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "marin"}
            await connection.session.update(
                session={"type": "realtime", "output_modalities": ["audio"], "audio": {"output": output}}
            )
            updated = await connection.recv()
            assert updated.type == "session.updated"
            assert updated.session.audio.output.voice == "scripted"  # type: ignore[union-attr]
            pcm = silence(400, 24_000) + speech(400, 1, 24_000) + silence(800, 24_000)
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
            sound, transcript = b"", ""
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                elif event.type == "response.output_audio_transcript.done":
                    transcript = event.transcript
                elif event.type == "response.done":
                    break
            assert sound == ScriptedVoice.sound(TEXT)
            assert transcript == TEXT
            assert event.response.output[0].content[0].transcript == TEXT
        await client.close()


@pytest.mark.needs("espeak-ng")
async def test_the_real_voice_over_the_wire() -> None:
    async with listening(
        talkative(), EspeakVoice(program_command("espeak-ng", "en-us", 170), "en-us", 2), timeout_ms=15_000
    ) as client:
        await client.send("response.create")
        await client.until("response.done")
        samples = np.frombuffer(heard(client.seen), "<i2")
        assert read(client.seen) == TEXT
    assert 1.0 < len(samples) / 24_000 < 5
    assert np.sqrt(np.mean((samples / 32_768) ** 2)) > 0.02
    halves = np.abs(samples[: len(samples) // 2]).max(), np.abs(samples[len(samples) // 2 :]).max()
    assert min(halves) > 1_000


async def test_the_first_sentence_is_spoken_while_the_model_writes_the_second() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["One latte. A", "nything else?"]
    engine.go_on.clear()
    async with listening(engine, voice) as client:
        await client.send("response.create")
        while len(heard(client.seen)) < len(ScriptedVoice.sound("One latte. ")):
            await client.receive()
        assert read(client.seen) == "One latte. "
        engine.go_on.set()
        await client.until("response.done")
        assert read(client.seen) == "One latte. Anything else?"
        assert heard(client.seen) == ScriptedVoice.sound("One latte. Anything else?")


async def test_one_reply_may_be_spoken_and_another_written() -> None:
    async with running(talkative(), voice=ScriptedVoice()) as port, talking(port) as client:
        await client.send("response.create", response={"output_modalities": ["audio"]})
        done = await client.until("response.done")
        assert done["response"]["output_modalities"] == ["audio"]
        assert AUDIO in client.kinds()
        client.seen.clear()
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["output_modalities"] == ["text"]
        assert "response.output_text.done" in client.kinds()
        assert AUDIO not in client.kinds()


async def test_a_given_text_is_said_word_for_word_and_the_model_is_not_asked() -> None:
    engine, voice = talkative(), ScriptedVoice()
    async with listening(engine, voice, lead_ms=60_000) as client:
        await client.send("response.create", response={"wavllm_say": " ".join(["Tea is ready."] * 40)})
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed", "the limit is the model's"
        assert "".join(heard["delta"] for heard in client.seen if heard["type"] == TRANSCRIPT).count("Tea") == 40
        assert any(event["type"] == AUDIO for event in client.seen)
        await client.send("response.create", response={"wavllm_say": "Hush.", "output_modalities": ["text"]})
        assert (await client.until("response.output_text.done"))["text"] == "Hush."
        await client.until("response.done")
        await client.send("response.create", response={"wavllm_say": " "})
        assert (await client.complaint())["param"] == "response.wavllm_say"
    assert engine.asked == []
    assert "wavllm_say" in EXTENSIONS


async def test_what_cannot_be_pronounced_is_not_given_to_the_voice() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    for words, asked in (([], []), (["…"], []), (["* * *\n", "Yes."], ["Yes."])):
        engine.words = words
        voice.asked.clear()
        async with listening(engine, voice) as client:
            await client.send("response.create")
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
            assert read(client.seen) == "".join(words)
            assert voice.asked == asked
            assert client.kinds()[-len(CLOSING) :] == CLOSING


async def test_audio_is_sent_no_faster_than_it_is_played_but_for_the_lead() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["x" * 150]  # 1.5 s
    async with listening(engine, voice, lead_ms=500) as client:
        asked_s = time.perf_counter()
        await client.send("response.create")
        while (event := await client.receive())["type"] != "response.done":
            if event["type"] == AUDIO:
                ahead_s = len(heard(client.seen)) / 48_000 - (time.perf_counter() - asked_s)
                assert ahead_s <= 0.5
        assert len(heard(client.seen)) == 150 * MS_PER_CHAR * 48


def check_closed(events: list[Event]) -> None:
    """Whatever was opened was closed, in the one order, and nothing follows."""
    kinds = [event["type"] for event in events if event["type"].startswith(("response.", "conversation.item."))]
    assert kinds.count("response.done") == 1
    opened = "response.output_item.added" in kinds
    assert kinds[-len(CLOSING) :] == CLOSING if opened else kinds == ["response.created", "response.done"]
    if opened:
        (full,) = [e["transcript"] for e in events if e["type"] == "response.output_audio_transcript.done"]
        assert full == read(events)
        assert TEXT.startswith(full)
        assert ScriptedVoice.sound(full).startswith(heard(events))


@given(
    position=st.integers(0, 30),
    how=st.sampled_from(["cancel", "barge in", "truncate"]),
    share=st.floats(0, 1),
    lead_ms=st.sampled_from([200, 60_000]),
)
@settings(max_examples=40, deadline=None)
async def test_a_reply_can_be_interrupted_at_any_point(position: int, how: str, share: float, lead_ms: int) -> None:
    engine, voice = talkative(), ScriptedVoice()
    async with listening(engine, voice, lead_ms=lead_ms) as client:
        await client.send("response.create")
        await client.until("response.created")
        while len(client.seen) < position and client.kinds()[-1:] != ["response.done"]:
            await client.receive()
        item_id = next((event["item_id"] for event in client.seen if "item_id" in event), None)
        end_ms = int(share * len(heard(client.seen)) / 48)
        if how == "barge in":
            await client.append(speech(400))
        elif how == "truncate" and item_id:
            await client.send(
                "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms, event_id="cut"
            )
        else:
            await client.send("response.cancel")
        if "response.done" not in client.kinds():
            done = await client.until("response.done")
            if done["response"]["status"] != "completed":
                wanted = "turn_detected" if how == "barge in" else "client_cancelled"
                assert (done["response"]["status"], done["response"]["status_details"]["reason"]) == (
                    "cancelled",
                    wanted,
                )
        until = list(client.seen)
        await round_trip(client)
        check_closed([event for event in until if event["type"] not in ("conversation.item.truncated", "error")])
        later = [event for event in client.seen[len(until) :] if event["type"].startswith("response.")]
        assert later == []
        complaints = [event["error"]["code"] for event in client.seen if event["type"] == "error"]
        assert complaints in ([], ["response_cancel_not_active"])
        if how == "truncate" and item_id:
            assert "conversation.item.truncated" in client.kinds()
        client.seen.clear()
        if how == "barge in":
            await client.append(silence(700))
        else:
            await client.send("response.create")
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        kept = engine.asked[-1][1][0].reply or ""
        assert TEXT.startswith(kept)
        if how == "truncate" and item_id:
            assert len(kept) <= max(1, end_ms // MS_PER_CHAR + 1)


async def test_speech_silences_the_reply_at_once_and_unheard_words_are_forgotten() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    async with half_heard(engine, voice) as client:
        await client.append(speech(400))
        done = await client.until("response.done")
        assert done["response"]["status_details"]["reason"] == "turn_detected"
        item_id, sent_ms = done["response"]["output"][0]["id"], len(heard(client.seen)) // 48
        assert sent_ms < len("".join(engine.words)) * MS_PER_CHAR
        for end_ms in (220, 90, 90):  # "Four" would end at 190, "two" at 70
            await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms)
            truncated = await client.until("conversation.item.truncated")
            assert (truncated["item_id"], truncated["content_index"], truncated["audio_end_ms"]) == (item_id, 0, end_ms)
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=91)
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("invalid_value", "audio_end_ms")
        assert "90 ms is already shorter" in complaint["message"]
        await client.append(silence(700))
        await client.until("response.created")
        assert engine.asked[-1][1][0].reply == "One two"


async def test_the_history_holds_no_words_that_were_never_sent() -> None:
    """Also where the client does not say what was heard."""

    class Slow(ScriptedVoice):
        CHAR_SAMPLES = 2_400

    engine, voice = ScriptedEngine(), Slow()
    engine.words = ["One two three four five six seven eight nine ten."]
    async with listening(engine, voice, lead_ms=200) as client:
        await client.send("response.create")
        while not heard(client.seen):
            await client.receive()
        await client.send("response.cancel")
        await client.until("response.done")
        sent = len(heard(client.seen)) // 2 // Slow.CHAR_SAMPLES  # characters
        assert read(client.seen) == engine.words[0]
        await client.send("response.create")
        await client.until("response.created")
    kept = engine.asked[1][1][0].reply or ""
    assert engine.words[0].startswith(kept)
    assert sent - len(" seven") <= len(kept) <= sent < len(engine.words[0])


async def test_a_truncation_that_cannot_be_is_told_and_changes_nothing() -> None:
    engine = talkative()
    async with listening(engine, ScriptedVoice()) as client:
        await client.send("response.create")
        spoken = (await client.until("response.done"))["response"]["output"][0]["id"]
        await client.send("response.create", response={"output_modalities": ["text"]})
        written = (await client.until("response.done"))["response"]["output"][0]["id"]
        ends = len(TEXT) * MS_PER_CHAR
        for fields, code, param, words in (
            ({"item_id": "none"}, "item_not_found", "item_id", "'none'"),
            ({"item_id": written}, "invalid_value", "item_id", "no spoken reply"),
            ({"audio_end_ms": ends + 1}, "invalid_value", "audio_end_ms", f"{ends} ms is already shorter"),
            ({"audio_end_ms": -1}, "invalid_value", "audio_end_ms", "0 to 86400000"),
            ({"audio_end_ms": 1.5}, "invalid_value", "audio_end_ms", "whole number"),
            ({"audio_end_ms": None}, "invalid_value", "audio_end_ms", "whole number"),
            ({"content_index": 1}, "invalid_value", "content_index", "0 to 0"),
            ({"item_id": 7}, "invalid_value", "item_id", "a string"),
        ):
            asked = {"item_id": spoken, "content_index": 0, "audio_end_ms": 10} | fields
            await client.send("conversation.item.truncate", **asked)
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == (code, param)
            assert words in complaint["message"]
        await client.send("conversation.item.truncate", item_id=spoken, content_index=0, audio_end_ms=ends)
        await client.until("conversation.item.truncated")
        await client.send("response.create")
        await client.until("response.done")
    assert engine.asked[-1][1][0].reply == f"{TEXT} {TEXT}"


@pytest.mark.parametrize(
    ("session", "param", "words"),
    [
        ({"output_modalities": ["audio", "text"]}, "output_modalities", 'must be ["text"] or ["audio"]'),
        ({"output_modalities": "audio"}, "output_modalities", '["audio"]'),
        ({"output_modalities": None}, "output_modalities", '["audio"]'),
        ({"audio": {"output": {"format": {"type": "audio/opus"}}}}, "audio.output.format.type", "audio/pcm"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8001}}}}, "audio.output.format.rate", "24000"),
        ({"audio": {"output": {"voice": 3}}}, "audio.output.voice", "a string"),
        ({"audio": {"output": {"voice": {"id": "x" * 200}}}}, "audio.output.voice.id", "128"),
        ({"audio": {"output": {"speed": 1.5}}}, "audio.output.speed", "1 to 1"),
        ({"audio": {"output": []}}, "audio.output", "an object"),
    ],
)
async def test_a_sound_that_there_is_not_is_refused_by_name(session: Any, param: str, words: str) -> None:
    async with listening(talkative(), ScriptedVoice()) as client:
        before = (await client.configure())["session"]
        await client.send("session.update", session=session)
        complaint = await client.complaint()
        assert complaint["param"] == f"session.{param}"
        assert words in complaint["message"]
        await client.send("response.create", response=session)
        complaint = await client.complaint()
        assert complaint["param"] == f"response.{param}"
        assert (await client.configure())["session"] == before


async def test_a_server_without_a_voice_says_so() -> None:
    async with running(talkative()) as port, talking(port) as client:
        updated = await client.configure(output_modalities=["text"])
        assert "output" not in updated["session"]["audio"]
        for kind, name in (("session.update", "session"), ("response.create", "response")):
            await client.send(kind, **{name: {"output_modalities": ["audio"]}})
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == ("invalid_value", f"{name}.output_modalities")
            assert "no voice" in complaint["message"]
