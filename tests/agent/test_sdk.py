"""The unmodified openai SDK, in both its forms, over all that it can say."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection, RealtimeConnection

from tests.agent.harness import running
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_functions import call, configured, saying
from tests.agent.test_tools import BREW, CALL, calling_config

NO_PROXY: Any = {"proxy": None}
MANUAL: Any = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


@asynccontextmanager
async def connected(port: int, **query: Any) -> AsyncIterator[AsyncRealtimeConnection]:
    client = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
    options = {"extra_query": query} if query else {"model": "gpt-realtime"}
    async with client.realtime.connect(websocket_connection_options=NO_PROXY, **options) as connection:
        assert (await connection.recv()).type == "session.created"
        yield connection
    await client.close()


async def until(connection: AsyncRealtimeConnection, *kinds: str) -> Any:
    while (event := await connection.recv()).type not in kinds:
        assert event.type != "error", event
    return event


def sound(pcm: bytes) -> str:
    return base64.b64encode(pcm).decode()


def typed(text: str, **more: Any) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **more}


async def test_a_turn_end_that_nobody_can_judge_does_not_end_a_dispatcher_without_a_handler_of_errors() -> None:
    semantic: Any = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}
    replied = asyncio.Event()
    async with running(ScriptedEngine()) as port, connected(port) as connection, asyncio.TaskGroup() as tasks:
        connection.on("response.done", lambda event: replied.set())
        dispatching = tasks.create_task(connection.dispatch_events())
        await connection.session.update(session=semantic)
        said = silence(400, 24_000) + speech(400, rate=24_000) + silence(600, 24_000)
        await connection.input_audio_buffer.append(audio=sound(said))
        await replied.wait()
        dispatching.cancel()


async def test_items_by_the_sdk() -> None:
    async with running(ScriptedEngine()) as port, connected(port) as connection:
        await connection.session.update(session={**MANUAL, "model": "gpt-realtime"})
        await until(connection, "session.updated")
        await connection.conversation.item.create(item=typed("second", id="b"))
        await until(connection, "conversation.item.done")
        await connection.conversation.item.create(item=typed("first", id="a"), previous_item_id="root")
        added = await until(connection, "conversation.item.added")
        assert (added.item.id, added.previous_item_id) == ("a", None)
        await connection.conversation.item.retrieve(item_id="a")
        retrieved = await until(connection, "conversation.item.retrieved")
        assert retrieved.item.content[0].text == "first"
        await connection.conversation.item.delete(item_id="a")
        assert (await until(connection, "conversation.item.deleted")).item_id == "a"
        await connection.conversation.item.retrieve(item_id="a", event_id="mine")
        error = (await until(connection, "error")).error
        assert (error.code, error.param, error.event_id) == ("item_not_found", "item_id", "mine")


async def test_push_to_talk_by_the_sdk() -> None:
    async with running(ScriptedEngine()) as port, connected(port) as connection:
        await connection.session.update(session=MANUAL)
        await connection.input_audio_buffer.append(audio=sound(speech(300, rate=24_000)))
        await connection.input_audio_buffer.clear()
        await until(connection, "input_audio_buffer.cleared")
        await connection.input_audio_buffer.append(audio=sound(speech(500, 2, 24_000)))
        await connection.input_audio_buffer.commit()
        item_id = (await until(connection, "input_audio_buffer.committed")).item_id
        segment = await until(connection, "conversation.item.input_audio_transcription.segment")
        assert (segment.item_id, segment.speaker, segment.text) == (item_id, "speaker 1", "voice 2 for 500 ms")
        await connection.conversation.item.retrieve(item_id=item_id)
        item = (await until(connection, "conversation.item.retrieved")).item
        assert len(base64.b64decode(item.content[0].audio)) == 2 * 12_000
        await connection.response.create()
        assert (await until(connection, "response.done")).response.output[0].content[
            0
        ].text == "answer 1 to voice 2 for 500 ms"


async def test_a_spoken_reply_is_cut_by_the_sdk() -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port, connected(port) as connection:
        await connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        await connection.response.create()
        item_id = (await until(connection, "response.done")).response.output[0].id
        await connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=60)
        assert (await until(connection, "conversation.item.truncated")).audio_end_ms == 60
        await connection.conversation.item.retrieve(item_id=item_id)
        item = (await until(connection, "conversation.item.retrieved")).item
        assert item.content[0].transcript == "answer"


async def test_tools_by_the_sdk(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with running(engine, calling_config(tmp_path)) as port, connected(port) as connection:
        tool: Any = BREW
        await connection.session.update(session={"type": "realtime", "tools": [tool], "tool_choice": "auto"})
        engine.words = [CALL]
        await connection.conversation.item.create(item=typed("two cups"))
        await connection.response.create()
        call = await until(connection, "response.function_call_arguments.done")
        assert (call.name, call.arguments) == ("brew", '{"cups": 2}')
        await until(connection, "response.done")
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "ready"}
        await connection.conversation.item.create(item=output)
        engine.words = ["There."]
        await connection.response.create()
        assert (await until(connection, "response.done")).response.output[0].content[0].text == "There."


async def test_calls_that_the_server_answers_are_no_business_of_the_sdk(tmp_path: Path) -> None:
    """An application carries out what it finds where the SDK's own examples look for calls: there is nothing."""
    engine = saying("Let me see. " + call("get_time"), "It is late.")
    seen = []
    async with running(engine, configured(tmp_path)) as port, connected(port) as connection:
        await connection.conversation.item.create(item=typed("how late is it"))
        await connection.response.create()
        while not seen or seen[-1].type != "response.done":
            seen.append(await connection.recv())
    assert [item.type for item in seen[-1].response.output] == ["message", "message"]
    assert not [event for event in seen if event.type.startswith("response.function_call_arguments")]
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta").endswith("It is late.")


async def test_beside_the_conversation_by_the_sdk() -> None:
    async with running(ScriptedEngine()) as port, connected(port) as connection:
        await connection.response.create(
            response={"conversation": "none", "input": [typed("topic?")], "metadata": {"for": "me"}}
        )
        response = (await until(connection, "response.done")).response
        assert (response.conversation_id, response.metadata) == (None, {"for": "me"})
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


async def test_transcription_by_the_sdk() -> None:
    async with running(ScriptedEngine()) as port, connected(port, intent="transcription") as connection:
        pcm = silence(400, 24_000) + speech(400, 1, 24_000) + silence(800, 24_000)
        await connection.input_audio_buffer.append(audio=sound(pcm))
        completed = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert completed.transcript.startswith("voice 1 for ")
        assert completed.usage.type == "duration" and completed.logprobs is None


async def test_how_sure_the_model_was_by_the_sdk() -> None:
    engine = ScriptedEngine()
    engine.logprob = -0.25
    async with running(engine) as port, connected(port, intent="transcription") as connection:
        include: Any = ["item.input_audio_transcription.logprobs"]
        await connection.session.update(session={"type": "transcription", "include": include})
        await until(connection, "session.updated")
        pcm = silence(400, 24_000) + speech(400, 1, 24_000) + silence(800, 24_000)
        await connection.input_audio_buffer.append(audio=sound(pcm))
        delta = await until(connection, "conversation.item.input_audio_transcription.delta")
        assert [(one.token, one.logprob) for one in delta.logprobs] == [(delta.delta, -0.25)]
        completed = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert "".join(one.token for one in completed.logprobs).strip() == completed.transcript


def hold_a_conversation(port: int) -> list[str]:
    """The other form of the SDK, which blocks."""
    client = OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")

    def until(connection: RealtimeConnection, kind: str) -> Any:
        while (event := connection.recv()).type != kind:
            assert event.type != "error", event
        return event

    texts = []
    with client, client.realtime.connect(model="wavllm", websocket_connection_options=NO_PROXY) as connection:
        until(connection, "session.created")
        connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        assert until(connection, "session.updated").session.output_modalities == ["audio"]
        pcm = silence(400, 24_000) + speech(400, 1, 24_000) + silence(800, 24_000)
        for start in range(0, len(pcm), 4_800):
            connection.input_audio_buffer.append(audio=sound(pcm[start : start + 4_800]))
        texts.append(until(connection, "response.done").response.output[0].content[0].transcript)
        connection.conversation.item.create(item=typed("and now"))
        connection.response.create(response={"output_modalities": ["text"]})
        for event in connection:
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
            elif event.type == "response.done":
                break
    return texts


async def test_the_blocking_sdk() -> None:
    async with running(ScriptedEngine(), voice=ScriptedVoice()) as port:
        texts = await asyncio.to_thread(hold_a_conversation, port)
    assert (texts[0], "".join(texts[1:])) == ("answer 1 to speech", "answer 2 to and now")
