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
from tests.agent.harness import Client, Event, running, talking, turn
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_attribution import know
from tests.agent.test_items import create, message
from tests.agent.test_tools import BREW, calling_config

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
