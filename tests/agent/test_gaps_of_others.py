"""What other Realtime servers got wrong, as their users tell: each is a promise here."""

from __future__ import annotations

from websockets.asyncio.client import connect

from tests.agent.harness import Client, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_items import create, message

TRANSCRIPTION = "conversation.item.input_audio_transcription"


async def test_an_error_is_an_object_and_an_update_needs_no_model() -> None:
    """vLLM sent a string, and wanted the model again."""
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.send("session.update", session={"instructions": "be brief"})  # not even a type
        assert (await client.until("session.updated", "error"))["type"] == "session.updated"
        await client.send("response.cancel", event_id="mine")
        complaint = await client.complaint()
        assert set(complaint) == {"type", "code", "message", "param", "event_id"}


async def test_the_reply_of_a_client_that_left_is_not_written_on() -> None:
    """In vLLM, cancelling the task alone left the request in the engine; `running` counts what is left."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port:
        async with talking(port) as client:
            await client.send("response.create")
            await client.until("response.output_text.delta")
            await client.send("response.create", response={"conversation": "none"})
            await client.until("response.output_text.delta")
        async with talking(port) as client:
            while engine.running:
                await client.configure()


async def test_create_response_and_interrupt_response_are_obeyed() -> None:
    """vllm-omni ignored the first and refused the second."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.configure_input(turn_detection={"create_response": False, "interrupt_response": False})
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await client.append(turn())
        await client.until(f"{TRANSCRIPTION}.completed")
        engine.go_on.set()
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        await client.configure()
        assert client.kinds().count("response.created") == 1


async def test_a_partial_update_of_turn_detection_leaves_it_on() -> None:
    """In sglang-omni a shallow merge switched it off without a word."""
    async with running(ScriptedEngine()) as port, talking(port) as client:
        updated = await client.configure_input(turn_detection={"threshold": 0.4})
        detection = updated["session"]["audio"]["input"]["turn_detection"]
        assert (detection["type"], detection["threshold"], detection["silence_duration_ms"]) == ("server_vad", 0.4, 500)
        await client.configure(instructions="x")
        await client.append(turn())
        await client.until("response.done")


async def test_no_event_names_an_item_before_it_is_announced() -> None:
    """sglang sent deltas of items that came later. That an item is going to be, `speech_started` tells."""
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.append(turn() + turn())
        while client.kinds().count(f"{TRANSCRIPTION}.completed") < 2:
            await client.receive()
        known: set[str] = set()
        for event in client.seen:
            if event["type"] == "input_audio_buffer.speech_started":
                known.add(event["item_id"])
            elif event["type"] == "response.output_item.added":
                known.add(event["item"]["id"])
            elif "item_id" in event:
                assert event["item_id"] in known


async def test_truncation_edits_after_the_reply_is_over_and_tells() -> None:
    """Elsewhere a no-op, or possible only while somebody speaks, or without an answer."""
    engine, voice = ScriptedEngine(), ScriptedVoice()
    async with running(engine, voice=voice) as port, talking(port) as client:
        await client.send("response.create", response={"output_modalities": ["audio"]})
        item_id = (await client.until("response.done"))["response"]["output"][0]["id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=0)
        await client.until("conversation.item.truncated")  # nothing at all was heard: valid
        await create(client, message("go on"))
        await client.send("response.create")
        await client.until("response.done")
    assert [exchange.reply for exchange in engine.asked[1][1]] == ["", None]


async def test_an_interrupted_request_stays_in_the_history() -> None:
    """sglang-omni forgot the question with the answer."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await client.append(turn(400, voice=1))
        await client.until("response.output_text.delta")
        await client.until(f"{TRANSCRIPTION}.completed")
        await client.append(speech(400, voice=2))
        await client.until("response.done")
        engine.go_on.set()
        await client.append(silence(700))
        await client.until("response.done")
    assert engine.asked[1][1][0].text == "voice 1 for 800 ms"


async def test_a_cancel_that_comes_too_late_breaks_nothing() -> None:
    """It was fatal to pipecat's sessions."""
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
        await client.send("response.cancel", response_id=done["id"])
        assert (await client.complaint())["code"] == "response_cancel_not_active"
        await client.send("response.create")
        await client.until("response.done")


async def test_every_update_is_confirmed_and_every_response_announced() -> None:
    """Watchdogs of clients cancel live answers otherwise."""
    async with running(ScriptedEngine()) as port, talking(port) as client:
        for _ in range(3):
            assert (await client.configure())["type"] == "session.updated"
        await client.append(turn())
        await client.until("response.done")
        kinds = client.kinds()
        assert kinds.index("response.created") < kinds.index("response.output_item.added")


async def test_instructions_can_change_at_any_time() -> None:
    """vllm-omni took those of the beginning only."""
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        for words in ("one", "two"):
            await client.configure(instructions=words)
            await client.send("response.create")
            await client.until("response.done")
        await client.configure(instructions="")
        await client.send("response.create")
        await client.until("response.done")
    assert [told for told, _, _ in engine.asked] == ["one", "two", ""]


async def test_who_never_used_our_name_gets_no_events_of_it() -> None:
    """OpenAI's Agents SDK hands its application an error for every event that OpenAI does not have."""
    url = "ws://127.0.0.1:{}/v1/realtime"
    async with running(ScriptedEngine()) as port, connect(url.format(port), proxy=None) as socket:
        client = Client(socket)
        await client.configure_input(format={"type": "audio/pcm", "rate": 16_000})
        await client.append(turn())
        await client.until("response.done")
        assert not [kind for kind in client.kinds() if kind.startswith("wavllm.")]
        await client.send("wavllm.speaker.name", number=1, name="Anna")
        await client.until("wavllm.speaker.named")
        await client.append(turn())
        assert (await client.until("wavllm.speaker"))["name"] == "Anna"


async def test_a_cancel_after_the_truncation_that_ended_a_reply_is_no_error() -> None:
    """Agents SDK: it says both, and shows its application every error. Once a reply later it is one again."""
    engine = ScriptedEngine()
    engine.go_on.clear()
    engine.replies = [["One two. Three", "."]]
    async with running(engine, voice=ScriptedVoice()) as port, talking(port) as client:
        await client.configure(output_modalities=["audio"])
        await client.send("response.create")
        item_id = (await client.until("response.output_audio.delta"))["item_id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=40)
        await client.send("response.cancel")
        response = (await client.until("response.done"))["response"]
        await client.send("response.cancel", response_id=response["id"])
        await client.configure()
        assert "error" not in client.kinds()
        engine.go_on.set()
        await client.send("response.create")
        await client.until("response.done")
        await client.send("response.cancel")
        assert (await client.complaint())["code"] == "response_cancel_not_active"
