"""Functions of the server's own, and who may have any called: over a real socket, with a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, FunctionsConfig
from agent.sessions.recording import Recording
from agent.sessions.replay import replay
from agent.sessions.responses import MAX_ROUNDS
from agent.transport.server import build_options
from tests.agent.harness import Client, Event, running, talking, turn
from tests.agent.scripted import LoudnessVad, ScriptedEngine, ScriptedVoice, silence, speech
from tests.agent.test_attribution import know
from tests.agent.test_items import create, message
from tests.agent.test_tools import BREW, calling_config
from tests.agent.test_transport import figures

OWN = ["get_time", "set_timer", "list_timers", "cancel_timer"]


def saying(*replies: str) -> ScriptedEngine:
    """A model that writes these, one after another."""
    engine = ScriptedEngine()
    engine.replies = [[reply] for reply in replies]
    return engine


def call(function: str, /, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': function, 'arguments': arguments})}</tool_call>"


def configured(folder: Path, **functions: Any) -> AgentConfig:
    return replace(calling_config(folder), functions=FunctionsConfig(**{"own": ("time", "timers"), **functions}))


@asynccontextmanager
async def serving(engine: ScriptedEngine, folder: Path, **functions: Any) -> AsyncIterator[Client]:
    voice, known = ScriptedVoice(), know(folder, {1: "Anna", 2: "Ben"})
    config = configured(folder, **functions)
    async with running(engine, config, voice=voice, speakers=known) as port, talking(port) as client:
        yield client


async def ask(client: Client, **response: Any) -> Event:
    client.seen.clear()
    await client.send("response.create", response=response)
    done: Event = (await client.until("response.done"))["response"]
    return done


def told(client: Client, kind: str = "wavllm.function") -> list[Event]:
    return [event for event in client.seen if event["type"] == kind]


def outputs(client: Client) -> list[Any]:
    items = [event["item"] for event in client.seen if event["type"] == "conversation.item.done"]
    return [json.loads(item["output"]) for item in items if item["type"] == "function_call_output"]


async def test_the_server_answers_a_call_and_the_model_goes_on_in_the_same_response(tmp_path: Path) -> None:
    engine = saying("Let me look. " + call("get_time"), "It is late.")
    async with serving(engine, tmp_path) as client:
        updated = await client.configure(tools=[BREW])
        assert updated["session"]["wavllm"]["functions"] == OWN
        await create(client, message("how late is it"))
        response = await ask(client)
        texts = [item["content"][0]["text"] for item in response["output"]]
        assert texts == ["Let me look.", "It is late."], "a client has nothing to do"
        begun, ended = told(client)
        assert (begun["status"], ended["status"]) == ("in_progress", "completed")
        assert (begun["name"], begun["response_id"], begun["call_id"]) == ("get_time", response["id"], ended["call_id"])
        (output,) = outputs(client)
        assert set(output) == {"time", "weekday", "say"}
        items = [event["item"]["type"] for event in client.seen if event["type"] == "conversation.item.added"]
        assert items == ["message", "function_call", "function_call_output", "message"]
    (first, history, _), (again, later, _) = engine.asked
    assert again == first
    assert [json.loads(line)["function"]["name"] for line in first.splitlines() if line.startswith("{")] == [
        "brew",
        *OWN,
    ]
    assert [(old.text, old.reply) for old in history] == [("how late is it", None)]
    assert [(old.text, old.reply) for old in later] == [
        ("how late is it", f"Let me look. {call('get_time')}"),
        (f"<tool_response>{json.dumps(output)}</tool_response>", None),
    ]


async def test_a_timer_is_spoken_of_when_it_is_due(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds=0.01, name="tea"), "Right.", "Your tea!")
    async with serving(engine, tmp_path) as client:
        await ask(client)
        due = (await client.until("response.done"))["response"]
        assert due["output"][0]["content"][0]["text"] == "Your tea!"
        assert [(news["status"], news["name"]) for news in told(client, "wavllm.timer")] == [
            ("set", "tea"),
            ("over", "tea"),
        ]
        assert outputs(client)[-1] == {"timer": "tea", "status": "over", "say": "Tea is over."}
    assert "over" in engine.asked[-1][1][-1].text


async def test_a_spoken_turn_is_read_in_writing_when_the_model_goes_on(tmp_path: Path) -> None:
    engine = saying(call("get_time"), "Late.")
    engine.pencil.clear()
    async with serving(engine, tmp_path) as client:
        await client.append(turn(400, 1))
        await client.until("wavllm.function")
        assert (await client.until("wavllm.function"))["status"] == "completed"
        assert len(engine.asked) == 1, "it waits for the transcript"
        engine.pencil.set()
        assert (await client.until("response.done"))["response"]["output"][0]["content"][0]["text"] == "Late."
    assert engine.asked[1][1][0].text.startswith("voice 1 for")


@pytest.mark.parametrize(
    ("who", "voice", "may"),
    [
        ("everybody", 3, True),
        ("everybody", None, True),
        ("enrolled", 1, True),
        ("enrolled", 3, False),
        ("enrolled", None, False),
        (["anna"], 1, True),
        (["anna"], 2, False),
        ([], 1, False),
    ],
)
@pytest.mark.parametrize("name", ["get_time", "brew"])
async def test_who_may(tmp_path: Path, who: Any, voice: int | None, may: bool, name: str) -> None:
    engine = saying(call(name), "So be it.")
    async with serving(engine, tmp_path, allowed={name: who}) as client:
        await client.configure(tools=[BREW])
        if voice:
            await client.append(turn(400, voice))
        else:
            await create(client, message("do it"))
            await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        ended = told(client)[-1:]
        if may and name == "brew":
            assert [item["type"] for item in response["output"]] == ["function_call"]
            assert ended == []
            return
        assert [item["type"] for item in response["output"]] == ["message"], "no client is asked to do it"
        assert ended[0]["status"] == ("completed" if may else "failed")
        if not may:
            (output,) = outputs(client)
            assert output["code"] == ended[0]["error"]["code"] == "not_allowed"
            assert output["error"] == ended[0]["error"]["message"]
            assert output["error"].startswith(f"{name} is only for ")
    assert "<tool_response>" in engine.asked[1][1][-1].text, "the model is told, too"


async def test_a_name_that_a_client_gives_a_voice_opens_nothing(tmp_path: Path) -> None:
    engine = saying("Hello.", call("get_time"), "No.")
    async with serving(engine, tmp_path, allowed={"get_time": ["Anna"]}) as client:
        await client.append(turn(400, 3))
        await client.until("response.done")
        await client.send("wavllm.speaker.name", number=1, name="Anna")
        await client.until("wavllm.speaker.named")
        await client.append(turn(400, 3))
        await client.until("response.done")
        assert told(client)[-1]["error"]["code"] == "not_allowed"


async def test_replies_are_spoken_before_and_after_a_call(tmp_path: Path) -> None:
    engine = saying("Let me look. " + call("get_time"), "It is late.")
    async with serving(engine, tmp_path) as client:
        response = await ask(client, output_modalities=["audio"])
        assert [item["content"][0]["transcript"] for item in response["output"]] == ["Let me look.", "It is late."]
        sound = {event["item_id"] for event in told(client, "response.output_audio.delta")}
        assert sound == {item["id"] for item in response["output"]}


async def test_functions_of_the_server_keep_their_names(tmp_path: Path) -> None:
    clash = [BREW, {"type": "function", "name": "get_time"}]
    async with serving(ScriptedEngine(), tmp_path) as client:
        for kind, name in (("session.update", "session"), ("response.create", "response")):
            await client.send(kind, **{name: {"tools": clash}})
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == ("invalid_value", f"{name}.tools[1].name")
            assert "the server has a function 'get_time' of its own" in complaint["message"]
        assert (await client.configure())["session"]["tools"] == []


async def test_a_client_answers_no_call_of_the_server(tmp_path: Path) -> None:
    async with serving(saying(call("get_time"), "Late."), tmp_path) as client:
        await ask(client)
        output = {"type": "function_call_output", "call_id": told(client)[0]["call_id"], "output": "noon"}
        await client.send("conversation.item.create", item=output)
        complaint = await client.complaint()
        assert complaint["code"] == "invalid_tool_call_id"
        assert "is answered by the server" in complaint["message"]


async def test_with_a_call_for_the_client_the_response_ends_and_goes_on_when_it_asks(tmp_path: Path) -> None:
    engine = saying(call("get_time") + call("brew", cups=2), "Two at noon.")
    async with serving(engine, tmp_path) as client:
        await client.configure(tools=[BREW])
        (brew,) = (await ask(client))["output"]
        assert (brew["name"], told(client)[-1]["status"]) == ("brew", "completed")
        await create(client, {"type": "function_call_output", "call_id": brew["call_id"], "output": "brewed"})
        assert (await ask(client))["output"][0]["content"][0]["text"] == "Two at noon."
    last = engine.asked[-1][1][-1].text
    assert last.count("<tool_response>") == 2
    assert "brewed" in last


async def test_what_is_wrong_with_a_call_is_told_to_the_model_and_the_client(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds="five"), call("cancel_timer", name="tea"), "Sorry.")
    async with serving(engine, tmp_path) as client:
        assert (await ask(client))["status"] == "completed"
        errors = [event["error"] for event in told(client) if event["status"] == "failed"]
        assert [error["code"] for error in errors] == ["invalid_arguments", "unknown"]
        assert errors[0]["message"] == "seconds: 'five' is not of type 'number'"
        assert [output["code"] for output in outputs(client)] == ["invalid_arguments", "unknown"]
        assert (await figures(client.socket.remote_address[1]))["wavllm_calls_total failed"] == 2


async def test_a_model_that_only_calls_is_stopped(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words = [call("get_time")]
    async with serving(engine, tmp_path) as client:
        response = await ask(client)
        assert response["status_details"]["error"]["message"].startswith(
            f"the model called functions {MAX_ROUNDS} times"
        )
        assert len(outputs(client)) == len(engine.asked) == MAX_ROUNDS
        engine.words = ["Well."]
        assert (await ask(client))["status"] == "completed"


async def test_all_rounds_share_the_tokens_of_a_response(tmp_path: Path) -> None:
    engine = saying(call("get_time"), call("get_time"))
    async with serving(engine, tmp_path) as client:
        response = await ask(client, max_output_tokens=6)
        assert (response["status"], response["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert [sampling.max_tokens for _, _, sampling in engine.asked] == [6, 2]


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_a_call_that_is_not_answered_before_the_end_says_so(tmp_path: Path, ending: str) -> None:
    engine = ScriptedEngine()
    engine.words = [call("get_time"), "and"]
    engine.go_on.clear()
    async with serving(engine, tmp_path) as client:
        await client.send("response.create")
        await client.until("wavllm.function")
        if ending == "cancelled":
            await client.send("response.cancel")
        else:
            engine.mute = True
            engine.go_on.set()
        assert (await client.until("response.done"))["response"]["status"] == ending
        assert told(client)[-1]["error"]["code"] == outputs(client)[0]["code"] == "interrupted"
        engine.mute, engine.words = False, ["Go on."]
        engine.go_on.set()
        assert (await ask(client))["status"] == "completed"


async def test_out_of_band_nothing_is_called_by_the_server(tmp_path: Path) -> None:
    engine = saying("Hello.", call("brew"))
    async with serving(engine, tmp_path, allowed={"brew": ["Anna"]}) as client:
        await client.configure(tools=[BREW])
        assert (await ask(client, conversation="none"))["status"] == "completed"
        response = await ask(client, conversation="none")
        assert response["status_details"]["error"]["message"] == "brew is only for Anna"
        engine.replies = [["Nothing."]]
        await ask(client, tool_choice="none")
    assert ["get_time" in told for told, _, _ in engine.asked] == [False, False, False]


async def test_a_timer_waits_until_nobody_speaks(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds=0.01), "Right.", "You were saying?", "It is over.")
    async with serving(engine, tmp_path) as client:
        await client.append(speech(400))
        await client.until("input_audio_buffer.speech_started")
        await client.send("response.create")
        await client.until("response.done")
        if "over" not in [news["status"] for news in told(client, "wavllm.timer")]:
            assert (await client.until("wavllm.timer"))["status"] == "over"
        await client.append(silence(600))
        for text in ("You were saying?", "It is over."):
            response = (await client.until("response.done"))["response"]
            assert response["output"][0]["content"][0]["text"] == text


async def test_a_timer_ends_with_its_conversation(tmp_path: Path) -> None:
    """That nothing is left is seen to by the harness."""
    async with serving(saying(call("set_timer", seconds=600), "Right."), tmp_path) as client:
        await ask(client)
        assert told(client, "wavllm.timer")[0]["left_s"] == 600


async def test_a_session_with_functions_can_be_held_again(tmp_path: Path) -> None:
    setting, over = [call("set_timer", seconds=0.01), "Right."], ["Over."]
    replies = [call("get_time"), "Late.", *setting, *over, call("list_timers"), "None."]
    config = configured(tmp_path)
    (folder := tmp_path / "recordings").mkdir()
    config = replace(config, server=replace(config.server, recordings=folder))
    async with running(saying(*replies), config) as port, talking(port) as client:
        await ask(client)
        await ask(client)
        await client.until("response.done")
        await ask(client)
    (file,) = folder.glob("*.jsonl")
    options = build_options(config, LoudnessVad, lambda _: None)
    assert await replay(Recording.read(file), saying(*replies), options) is None


async def test_what_a_call_gave_is_remembered_though_nothing_was_said_of_it(tmp_path: Path) -> None:
    engine = saying(call("set_timer", seconds=600, name="tea"))
    engine.words = ["Wait", " for it."]
    engine.go_on.clear()
    async with serving(engine, tmp_path) as client:
        await create(client, message("tea please"))
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await client.send("response.cancel")
        await client.until("response.done")
        item_id = told(client, "response.output_item.done")[-1]["item"]["id"]
        await client.send("conversation.item.delete", item_id=item_id)
        engine.go_on.set()
        await create(client, message("is it set"))
        await ask(client)
    assert [(old.text[:15], old.reply is None) for old in engine.asked[-1][1]] == [
        ("tea please", False),
        ("<tool_response>", False),
        ("is it set", True),
    ]


async def test_with_memory_of_ones_own_the_second_round_is_no_wider_than_the_first(tmp_path: Path) -> None:
    engine = saying("Hello, Anna.", call("get_time"), "Late.")
    async with serving(engine, tmp_path) as client:
        await client.configure(wavllm={"speakers": {"memory": "own"}})
        for voice in (1, 2):
            await client.append(turn(400, voice))
            await client.until("response.done")
    assert [{old.speaker for old in history} for _, history, _ in engine.asked] == [{1}, {2}, {2, None}]


async def test_a_model_that_is_made_to_call_is_not_made_to_again(tmp_path: Path) -> None:
    setting = call("set_timer", seconds=0.01).removeprefix('<tool_call>{"name": "set_timer", "arguments": ')
    engine = saying(setting, "Right.", "It is over.")
    async with serving(engine, tmp_path) as client:
        await client.configure(tool_choice={"type": "function", "name": "set_timer"})
        await client.send("response.create")
        for text in ("Right.", "It is over."):
            response = (await client.until("response.done"))["response"]
            assert response["output"][0]["content"][0]["text"] == text
    assert [bool(sampling.begins) for _, _, sampling in engine.asked] == [True, False, False]
