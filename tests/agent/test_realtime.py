"""Whole conversations, by the unmodified openai SDK and by the client of the harness."""

from __future__ import annotations

import base64

import pytest
from openai import AsyncOpenAI

from tests.agent.harness import running, talking, turn
from tests.agent.scripted import ScriptedEngine, silence, speech

CANONICAL_ORDER = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
TRANSCRIPTION = "conversation.item.input_audio_transcription"


async def test_the_sdk_holds_a_spoken_conversation() -> None:
    async with running(ScriptedEngine()) as port:
        client = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
        async with client.realtime.connect(model="wavllm", websocket_connection_options={"proxy": None}) as connection:
            assert (await connection.recv()).type == "session.created"
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            assert (await connection.recv()).type == "session.updated"
            for number, voice in enumerate((1, 2, 1), start=1):
                pcm = silence(400, 24_000) + speech(400, voice, 24_000) + silence(800, 24_000)
                for start in range(0, len(pcm), 4_800):
                    audio = base64.b64encode(pcm[start : start + 4_800]).decode()
                    await connection.input_audio_buffer.append(audio=audio)
                kinds, text, speaker, transcript = [], "", "", ""
                while not (transcript and kinds[-1:] == ["response.done"]):
                    event = await connection.recv()
                    if event.type.startswith(TRANSCRIPTION):
                        transcript, speaker = getattr(event, "transcript", ""), getattr(event, "speaker", "")
                        continue
                    kinds.append(event.type)
                    if event.type == "response.output_text.delta":
                        text += event.delta
                assert kinds == CANONICAL_ORDER
                assert text == f"answer {number} to speech"
                assert speaker == f"speaker {voice}"
                assert transcript.startswith(f"voice {voice} for ")
        await client.close()


async def test_the_sdk_types_a_question_and_cancels_the_answer() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port:
        client = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
        async with client.realtime.connect(model="wavllm", websocket_connection_options={"proxy": None}) as connection:
            content = [{"type": "input_text", "text": "what time is it"}]
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": content}  # type: ignore[typeddict-item]
            )
            await connection.response.create()
            async for event in connection:
                if event.type == "response.output_text.delta":
                    await connection.response.cancel()
                elif event.type == "response.done":
                    break
            assert event.response.status == "cancelled"
            assert event.response.status_details.reason == "client_cancelled"
            assert event.response.output[0].status == "incomplete"
        await client.close()


async def test_everything_a_turn_says_about_itself() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.append(turn(400, voice=2))
        await client.until("response.done")
        while f"{TRANSCRIPTION}.completed" not in client.kinds():
            await client.receive()
        of = {event["type"]: event for event in client.seen}
        item_id = of["input_audio_buffer.speech_started"]["item_id"]
        # speech begins at 400 ms and the prefix takes in 300 before; silence of 500 ms ends it
        assert of["input_audio_buffer.speech_started"]["audio_start_ms"] == 100
        assert of["input_audio_buffer.speech_stopped"]["audio_end_ms"] == 1300
        assert len(engine.heard[0]) == 16 * 800  # of the silence 100 ms belong to the turn
        assert of["wavllm.speaker"] | {"event_id": ""} == {
            "type": "wavllm.speaker",
            "event_id": "",
            "item_id": item_id,
            "speaker": "speaker 1",
            "number": 1,
            "name": None,
            "id": None,
            "similarity": 1.0,
            "confidence": 1.0,
            "audio_start_ms": 100,
            "audio_end_ms": 900,
            "provisional": False,
        }
        completed = of[f"{TRANSCRIPTION}.completed"]
        assert (completed["item_id"], completed["transcript"]) == (item_id, "voice 2 for 800 ms")
        assert (completed["speaker"], completed["usage"]["seconds"]) == ("speaker 1", 0.8)
        done = of["response.done"]
        assert done["response"]["usage"]["input_token_details"]["audio_tokens"] == 10
        assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": "answer 1 to speech"}]
        latency = done["wavllm_latency"]
        assert latency["vad_wait_ms"] == 500
        rounding_ms = 0.2  # both figures have one decimal
        assert 0 <= latency["first_token_ms"] <= latency["total_ms"] - 500 + rounding_ms
        assert len({event["event_id"] for event in client.seen}) == len(client.seen)


async def test_history_and_speakers_reach_the_model() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.configure(instructions="be brief")
        for voice in (1, 2):
            client.seen.clear()
            await client.append(turn(400, voice))
            while not {"response.done", f"{TRANSCRIPTION}.completed"} <= set(client.kinds()):
                await client.receive()
        await client.send(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now"}]},
        )
        override = {"instructions": "be long", "max_output_tokens": 7}
        await client.send("response.create", response=override | {"metadata": {"turn": "3"}})
        done = await client.until("response.done")
    assert done["response"]["metadata"] == {"turn": "3"}
    assert done["response"]["max_output_tokens"] == 7
    assert done["wavllm_latency"]["vad_wait_ms"] is None
    instructions, history, sampling = engine.asked[-1]
    assert (instructions, sampling.max_tokens) == ("be long", 7)
    assert [(e.text, e.speaker, e.reply) for e in history] == [
        ("voice 1 for 800 ms", 1, "answer 1 to speech"),
        ("voice 2 for 800 ms", 2, "answer 2 to speech"),
        ("and now", None, None),
    ]
    assert engine.asked[1][0] == "be brief"
    assert engine.asked[1][1][-1].heard is not None


async def test_a_pause_is_answered_ahead_with_what_the_end_is_going_to_ask() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        for number in (1, 2):
            for spoken in (silence(400) + speech(400), speech(200)):  # the first pause is none
                already = len(engine.speculated)
                await client.append(spoken + silence(200))
                while len(engine.speculated) == already:
                    await client.configure()  # a round trip
            await client.append(silence(400))
            await client.until("response.done")
            while client.kinds().count(f"{TRANSCRIPTION}.completed") < number:
                await client.receive()
            too_early, right = engine.speculated[-2:]
            assert right == engine.asked[-1] != too_early
            heard = [history[-1].heard for _, history, _ in (too_early, right)]
            lengths = [len(one.speech_embeds) for one in heard if one]
            assert lengths == [16 * (300 + 400 + 100), 16 * (300 + 400 + 200 + 200 + 100)]


async def test_nobody_answers_ahead_where_the_client_asks_for_answers() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.configure_input(turn_detection={"create_response": False})
        await client.append(turn())
        await client.until(f"{TRANSCRIPTION}.completed")
    assert engine.speculated == []


async def test_what_was_said_is_prepared_before_the_next_turn() -> None:
    engine = ScriptedEngine()
    engine.pencil.clear()
    async with running(engine) as port, talking(port) as client:
        await client.configure(instructions="be brief")
        await client.append(turn())
        await client.until("response.done")
        assert all(not past for _, past in engine.prepared)  # the transcript is not there yet
        engine.pencil.set()
        await client.until(f"{TRANSCRIPTION}.completed")
        await client.configure()
        instructions, past = engine.prepared[-1]
    assert instructions == "be brief"
    assert [(old.text, old.reply) for old in past] == [("voice 1 for 800 ms", "answer 1 to speech")]


async def test_barge_in_closes_everything_and_the_next_turn_is_answered() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.append(turn())
        await client.until("response.output_text.delta")
        client.seen.clear()
        await client.append(speech(400))
        done = await client.until("response.done")
        closing = [kind for kind in client.kinds() if not kind.startswith(TRANSCRIPTION)]
        assert closing == ["input_audio_buffer.speech_started", *CANONICAL_ORDER[-5:]]
        assert done["response"]["status"] == "cancelled"
        assert done["response"]["status_details"]["reason"] == "turn_detected"
        engine.go_on.set()
        await client.append(silence(600))
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
    assert engine.asked[1][1][0].reply == "answer 1"  # as far as it came


async def test_without_interruption_the_second_turn_waits_for_its_answer() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.configure_input(turn_detection={"interrupt_response": False})
        await client.append(turn() + turn())
        await client.until("input_audio_buffer.committed")
        await client.until("input_audio_buffer.committed")
        engine.go_on.set()
        for _ in range(2):
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
    assert [exchange.reply for exchange in engine.asked[1][1]] == ["answer 1 to speech", None]


async def test_create_response_off_leaves_the_answer_to_the_client() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        updated = await client.configure_input(turn_detection={"create_response": False})
        assert updated["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
        await client.append(turn())
        await client.until(f"{TRANSCRIPTION}.completed")
        assert "response.created" not in client.kinds()
        await client.send("response.create")
        await client.until("response.done")


async def test_push_to_talk() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port, rate=24_000) as client:
        updated = await client.configure_input(turn_detection=None)
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        await client.append(speech(300, rate=24_000))
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.append(speech(500, voice=3, rate=24_000), chunk_bytes=1_234)
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        assert done["wavllm_latency"]["vad_wait_ms"] is None
        assert "input_audio_buffer.speech_started" not in client.kinds()
    assert len(engine.heard[0]) == 16 * 500


async def test_audio_in_an_item_is_heard_too() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        content = [{"type": "input_audio", "audio": base64.b64encode(speech(500, 4)).decode()}]
        item = {"id": "mine", "type": "message", "role": "user", "content": content}
        await client.send("conversation.item.create", item=item)
        completed = await client.until(f"{TRANSCRIPTION}.completed")
        assert (completed["item_id"], completed["transcript"]) == ("mine", "voice 4 for 500 ms")
        await client.send("conversation.item.delete", item_id="mine")
        await client.until("conversation.item.deleted")
        await client.send("conversation.item.delete", item_id="mine", event_id="again")
        complaint = await client.complaint()
        assert (complaint["code"], complaint["event_id"]) == ("item_not_found", "again")


async def test_transcripts_can_be_switched_off_but_history_keeps_them() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        updated = await client.configure_input(transcription=None)
        assert updated["session"]["audio"]["input"]["transcription"] is None
        for _ in range(2):
            await client.append(turn())
            await client.until("response.done")
        assert not any(kind.startswith(TRANSCRIPTION) for kind in client.kinds())
    assert engine.asked[1][1][0].text == "voice 1 for 800 ms"


async def test_a_failing_model_fails_one_response() -> None:
    engine = ScriptedEngine()
    engine.mute = engine.cannot_write = True
    async with running(engine) as port, talking(port) as client:
        await client.append(turn())
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        assert done["response"]["status_details"]["error"]["message"] == "out of memory"
        assert client.kinds()[-5:] == CANONICAL_ORDER[-5:]
        if f"{TRANSCRIPTION}.failed" not in client.kinds():
            await client.until(f"{TRANSCRIPTION}.failed")
        engine.mute = engine.cannot_write = False
        await client.append(turn())
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_failing_to_listen_fails_one_turn() -> None:
    engine = ScriptedEngine()
    engine.deaf = True
    async with running(engine) as port, talking(port) as client:
        await client.append(turn())
        failed = await client.until(f"{TRANSCRIPTION}.failed")
        assert failed["error"]["message"] == "the encoder is out of order"
        done = next(event for event in client.seen if event["type"] == "response.done")
        assert done["response"]["status"] == "failed"
        engine.deaf = False
        await client.append(turn())
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_a_reply_cut_at_its_limit_is_incomplete() -> None:
    engine = ScriptedEngine()
    engine.words = ["one ", "two ", "three"]
    async with running(engine) as port, talking(port) as client:
        await client.send("response.create", response={"max_output_tokens": 3})
        done = await client.until("response.done")
        assert done["response"]["status"] == "incomplete"
        assert done["response"]["status_details"]["reason"] == "max_output_tokens"
        engine.words = []
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": ""}]


async def test_a_client_that_leaves_takes_its_work_along() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port:
        async with talking(port) as client:
            await client.append(turn())
            await client.until("response.output_text.delta")
            await client.append(speech(200))
        async with talking(port):
            pass
    # `running` sees to it that no task, utterance or generator is left


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
async def test_all_input_rates(rate: int) -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port, rate=rate) as client:
        await client.append(silence(400, rate) + speech(400, 2, rate) + silence(700, rate))
        completed = await client.until(f"{TRANSCRIPTION}.completed")
        assert completed["transcript"].startswith("voice 2 for 8")


async def test_a_commit_ends_the_turn_that_the_server_follows() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.append(speech(400))
        await client.send("input_audio_buffer.commit")
        await client.until("response.done")
        assert "input_audio_buffer.speech_stopped" not in client.kinds()
        await client.append(silence(600))
        await client.send("input_audio_buffer.commit")
        assert (await client.complaint())["code"] == "input_audio_buffer_commit_empty"


async def test_two_clients_do_not_hear_each_other() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as first, talking(port) as second:
        await first.append(turn(400, voice=1))
        await second.append(turn(500, voice=2))
        told = [await client.until(f"{TRANSCRIPTION}.completed") for client in (first, second)]
        assert [event["transcript"] for event in told] == ["voice 1 for 800 ms", "voice 2 for 900 ms"]
        assert [event["speaker"] for event in told] == ["speaker 1", "speaker 1"]
