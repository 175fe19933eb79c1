"""Responses beside the conversation, and responses that are given something else to answer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.agent.harness import Client, Event, running, talking
from tests.agent.scripted import ScriptedEngine, ScriptedVoice, speech
from tests.agent.test_items import CALL, OUTPUT, create, message
from tests.agent.test_tools import calling_config
from wavllm_core.engine.api import PromptUsage

ASIDE = {"conversation": "none", "output_modalities": ["text"]}


async def asked(client: Client, **response: Any) -> str:
    """The id of a response that has begun."""
    await client.send("response.create", response=response)
    response_id: str = (await client.until("response.created"))["response"]["id"]
    return response_id


async def test_a_response_beside_the_conversation_leaves_no_trace_in_it() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await create(client, message("hello", id="u"))
        client.seen.clear()
        await client.send("response.create", response=ASIDE | {"metadata": {"topic": "mood"}})
        response = (await client.until("response.done"))["response"]
        assert client.kinds() == [
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        assert (response["conversation_id"], response["metadata"]) == (None, {"topic": "mood"})
        assert response["output"][0]["content"][0]["text"] == "answer 1 to hello"
        await client.send("conversation.item.retrieve", item_id=response["output"][0]["id"])
        assert (await client.complaint())["code"] == "item_not_found"
        await client.send("response.create")
        assert (await client.until("response.done"))["response"]["conversation_id"].startswith("conv_")
    assert [len(history) for _, history, _ in engine.asked] == [1, 1]


async def test_usage_is_what_the_model_read_and_how_much_of_it_was_there_already() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        for usage, read, cached in ((None, 3, 0), (PromptUsage(40, 25), 40, 25)):
            engine.usage = usage
            await client.send("response.create", response=ASIDE | {"input": [message("one two three")]})
            told = (await client.until("response.done"))["response"]["usage"]
            details = {"text_tokens": read, "audio_tokens": 0, "cached_tokens": cached}
            assert (told["input_tokens"], told["input_token_details"]) == (read, details)
            written = told["output_tokens"]
            assert told["output_token_details"] == {"text_tokens": written, "audio_tokens": 0}
            assert told["total_tokens"] == read + written > read


async def test_several_run_beside_the_one_in_the_conversation() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        inside = await asked(client)
        beside = [await asked(client, **ASIDE) for _ in range(4)]
        await client.send("response.create", response=ASIDE)
        complaint = await client.complaint()
        assert (complaint["code"], complaint["param"]) == ("too_many_responses", "response.conversation")
        await client.send("response.create")
        assert (await client.complaint())["code"] == "conversation_already_has_active_response"
        await client.send("response.cancel", response_id=beside[0])
        cancelled = (await client.until("response.done"))["response"]
        assert (cancelled["id"], cancelled["status"]) == (beside[0], "cancelled")
        await client.append(speech(400))  # interrupts what is said aloud, not what is thought beside it
        interrupted = (await client.until("response.done"))["response"]
        assert (interrupted["id"], interrupted["status_details"]["reason"]) == (inside, "turn_detected")
        engine.go_on.set()
        ended = {(await client.until("response.done"))["response"]["id"] for _ in range(3)}
        assert ended == set(beside[1:])


async def test_the_first_to_be_cancelled_is_the_one_in_the_conversation() -> None:
    engine = ScriptedEngine()
    engine.go_on.clear()
    async with running(engine) as port, talking(port) as client:
        await asked(client, **ASIDE)
        await client.send("response.cancel")
        assert (await client.complaint())["code"] == "response_cancel_not_active"


async def test_a_full_engine_answers_one_after_the_other() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        engine.full = True
        await asked(client, **ASIDE)
        assert (await client.until("response.done"))["response"]["status"] == "completed"


async def test_what_to_answer_can_be_given_and_referred_to(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with running(engine, calling_config(tmp_path)) as port, talking(port) as client:
        await create(client, message("secret", id="s"))
        await create(client, message("referred", id="r"))
        audio = {"type": "input_audio", "audio": base64.b64encode(speech(500, 3)).decode()}
        spoken = {"type": "message", "role": "user", "content": [audio]}
        for given in (
            [],
            [{"type": "item_reference", "id": "r"}],
            [message("ask", "system"), message("well", "assistant"), message("new")],
            [message("brew"), CALL, OUTPUT],
            [message("before"), message("yes", "assistant"), spoken],
        ):
            await client.send("response.create", response=ASIDE | {"input": given, "instructions": "now"})
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
    told = [(text, [(old.text, old.reply) for old in history]) for text, history, _ in engine.asked]
    assert told[:3] == [
        ("now", [("", None)]),
        ("now", [("referred", None)]),
        ("now\nask", [("", "well"), ("new", None)]),
    ]
    assert told[3][1][1] == ("<tool_response>done</tool_response>", None)
    heard = engine.asked[4][1][-1].heard
    assert heard is not None
    assert heard.seconds == 0.5
    assert done["response"]["usage"]["input_token_details"]["audio_tokens"] == round(12.5 * 0.5)


async def test_input_in_the_conversation_replaces_the_past_for_one_answer_only() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await create(client, message("past"))
        await client.send("response.create", response={"input": [message("present")]})
        await client.until("response.done")
        await client.send("response.create")
        await client.until("response.done")
    assert [[old.text for old in history] for _, history, _ in engine.asked] == [["present"], ["past", ""]]
    assert engine.asked[1][1][0].reply == "answer 1 to present"


async def test_wrong_input_is_told_and_nothing_is_begun() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        for given, code, param in (
            ("x", "invalid_value", "response.input"),
            ([{"type": "item_reference"}], "missing_required_parameter", "response.input[0].id"),
            ([{"type": "item_reference", "id": "no"}], "item_not_found", "response.input[0].id"),
            ([message("a"), OUTPUT], "invalid_tool_call_id", "response.input[1].call_id"),
            ([message("a", "robot")], "invalid_value", "response.input[0].role"),
            ([message("a")] * 65, "invalid_value", "response.input"),
        ):
            client.seen.clear()
            await client.send("response.create", response={"input": given})
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == (code, param)
            assert client.kinds() == ["error"]


async def test_input_that_cannot_be_heard_fails_its_response_alone() -> None:
    engine = ScriptedEngine()
    engine.deaf = True
    async with running(engine) as port, talking(port) as client:
        audio = {"type": "input_audio", "audio": base64.b64encode(speech(500)).decode()}
        spoken: Event = {"type": "message", "role": "user", "content": [audio]}
        await client.send("response.create", response=ASIDE | {"input": [spoken]})
        done = await client.until("response.done")
        assert done["response"]["status_details"]["error"]["message"] == "the encoder is out of order"


async def test_beside_the_conversation_a_reply_can_be_spoken_too() -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    async with running(engine, voice=voice) as port, talking(port) as client:
        await client.send("response.create", response={"conversation": "none", "output_modalities": ["audio"]})
        done = await client.until("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "answer 1 to speech"
        assert "response.output_audio.delta" in client.kinds()
        assert not any(kind.startswith("conversation.") for kind in client.kinds())
