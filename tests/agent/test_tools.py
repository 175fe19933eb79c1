"""Functions of the client: how a model is told of them, how it calls them, and the way back of what they gave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig, ModelConfig
from agent.errors import ToolCallError
from agent.protocol.tools import FunctionTool
from agent.sessions.tool_calls import Call, HermesCaller, find_tool_caller
from tests.agent.harness import Client, running, talking
from tests.agent.scripted import ScriptedEngine, ScriptedVoice
from tests.agent.test_items import create, message

SCHEMA = {"type": "object", "properties": {"cups": {"type": "integer"}}}
BREW = {"type": "function", "name": "brew", "description": "Makes coffee.", "parameters": SCHEMA}
OTHER = BREW | {"name": "other"}
CALL = '<tool_call>{"name": "brew", "arguments": {"cups": 2}}</tool_call>'
CALL_EVENTS = [
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "conversation.item.done",
]
TOOLS = [FunctionTool("brew", "Makes coffee.", json.dumps(SCHEMA))]


def calling_config(folder: Path) -> AgentConfig:
    """Of a model whose own template shows that it calls functions."""
    (folder / "chat_template.jinja").write_text("... <tool_call> ...")
    return AgentConfig(model=ModelConfig(checkpoint=folder))


@asynccontextmanager
async def offering(engine: ScriptedEngine, folder: Path, voice: ScriptedVoice | None = None) -> AsyncIterator[Client]:
    async with running(engine, calling_config(folder), voice=voice) as port, talking(port) as client:
        updated = await client.configure(tools=[BREW], tool_choice="auto")
        assert (updated["session"]["tools"], updated["session"]["tool_choice"]) == ([BREW], "auto")
        client.seen.clear()
        yield client


async def test_a_call_its_output_and_the_answer(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with offering(engine, tmp_path) as client:
        await create(client, message("two cups"))
        client.seen.clear()
        engine.words = ["Right", " away. <tool", "_call>", *CALL.removeprefix("<tool_call>")]
        await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        assert client.kinds() == [
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 2,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            *CALL_EVENTS,
            "response.done",
        ]
        said, call = response["output"]
        assert said["content"][0]["text"] == "Right away."
        assert (call["type"], call["name"], call["status"]) == ("function_call", "brew", "completed")
        assert json.loads(call["arguments"]) == {"cups": 2}
        deltas = [event for event in client.seen if "function_call_arguments" in event["type"]]
        assert deltas[0]["delta"] == deltas[1]["arguments"] == call["arguments"]
        assert {event["output_index"] for event in deltas} == {1}
        assert {event["call_id"] for event in deltas} == {call["call_id"]}

        output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"ready": true}'}
        await create(client, output)
        engine.words = ["Your coffee is ready."]
        await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        assert response["output"][0]["content"][0]["text"] == "Your coffee is ready."
    told, history, _ = engine.asked[1]
    assert [(old.text, old.reply) for old in history] == [
        ("two cups", f"Right away. {CALL}"),
        ('<tool_response>{"ready": true}</tool_response>', None),
    ]
    (described,) = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert described == {"type": "function", "function": {key: BREW[key] for key in BREW if key != "type"}}


async def test_two_calls_in_one_reply_and_only_one_where_that_is_wanted(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words = [CALL + "\n" + CALL]
    async with offering(engine, tmp_path) as client:
        for parallel in (True, False):
            client.seen.clear()
            await client.send("response.create", response={"parallel_tool_calls": parallel})
            response = (await client.until("response.done"))["response"]
            assert len({item["call_id"] for item in response["output"]}) == 1 + parallel
            assert client.kinds()[2:-1] == CALL_EVENTS * (1 + parallel)


async def test_a_response_may_have_other_tools_or_none(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.words = [CALL]
    async with offering(engine, tmp_path) as client:
        for response in ({"tools": []}, {"tool_choice": "none"}):
            await client.send("response.create", response=response)
            done = await client.until("response.done")
            assert done["response"]["output"][0]["content"][0]["text"] == CALL  # nobody asked for calls
        await client.configure(tools=[])
        await client.send("response.create", response={"tools": [BREW | {"name": "other"}]})
        done = await client.until("response.done")
        assert done["response"]["status_details"]["error"]["message"] == "the model called 'brew', which there is not"
    assert ["other" in told for told, _, _ in engine.asked] == [False, False, True]


async def test_speech_first_then_the_call(tmp_path: Path) -> None:
    engine, voice = ScriptedEngine(), ScriptedVoice()
    engine.words = ["One moment.", CALL]
    async with offering(engine, tmp_path, voice) as client:
        await client.send("response.create", response={"output_modalities": ["audio"]})
        response = (await client.until("response.done"))["response"]
        assert [item["type"] for item in response["output"]] == ["message", "function_call"]
        assert client.kinds()[-7:-1] == CALL_EVENTS
        engine.words = [CALL]
        await client.send("response.create", response={"output_modalities": ["audio"]})
        response = (await client.until("response.done"))["response"]
        assert [item["type"] for item in response["output"]] == ["function_call"]
    assert voice.asked == ["One moment."]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["<tool_call>{nonsense</tool_call>"], "cannot be read"),
        (["<tool_call>[1]</tool_call>"], "cannot be read"),
        (['<tool_call>{"name": "brew", "arguments": [2]}</tool_call>'], "no object"),
        (['<tool_call>{"name": "brew"'], "cannot be read"),
        (["<tool_call>" + "x" * 40_000], "32768"),
    ],
)
async def test_a_call_that_nobody_can_read_fails_the_response(tmp_path: Path, words: list[str], why: str) -> None:
    engine = ScriptedEngine()
    engine.words = words
    async with offering(engine, tmp_path) as client:
        await client.send("response.create")
        response = (await client.until("response.done"))["response"]
        assert response["status"] == "failed"
        assert why in response["status_details"]["error"]["message"]


@pytest.mark.parametrize(
    ("choice", "tools", "begins"),
    [
        ("required", [BREW], '<tool_call>{"name": "brew", "arguments":'),
        ("required", [BREW, OTHER], '<tool_call>{"name":'),
        ({"type": "function", "name": "brew"}, [BREW, OTHER], '<tool_call>{"name": "brew", "arguments":'),
    ],
)
@pytest.mark.parametrize("of", ["session", "response"])
async def test_a_model_is_made_to_call(tmp_path: Path, choice: Any, tools: list[Any], begins: str, of: str) -> None:
    engine = ScriptedEngine()
    engine.words = [CALL.removeprefix(begins)]
    async with offering(engine, tmp_path) as client:
        wanted = {"tools": tools, "tool_choice": choice}
        if of == "session":
            assert (await client.configure(**wanted))["session"]["tool_choice"] == choice
        await client.send("response.create", response=wanted if of == "response" else {})
        (item,) = (await client.until("response.done"))["response"]["output"]
        assert (item["type"], item["name"], json.loads(item["arguments"])) == ("function_call", "brew", {"cups": 2})
    (told, _, sampling) = engine.asked[0]
    assert sampling.begins == begins
    assert ("other" in told) == (OTHER in tools)  # what there is stays known, whatever is chosen


async def test_a_model_that_does_otherwise_than_it_is_made_to_fails_the_response(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with offering(engine, tmp_path) as client:
        for words, why in (
            ([' "other", "arguments": {}}</tool_call>'], "'other', which"),
            ([" I would"], "cannot be read"),
        ):
            engine.words = words
            await client.send(
                "response.create", response={"tool_choice": "required", "tools": [BREW, BREW | {"name": "b"}]}
            )
            response = (await client.until("response.done"))["response"]
            assert (response["status"], response["output"]) == ("failed", [])
            assert why in response["status_details"]["error"]["message"]


async def test_what_cannot_be_chosen_is_refused_by_name(tmp_path: Path) -> None:
    named = {"type": "function", "name": "sing"}
    async with offering(ScriptedEngine(), tmp_path) as client:
        for kind, of in (("session.update", "session"), ("response.create", "response")):
            for wanted, param, why in (
                ({"tool_choice": named}, "tool_choice.name", "no tool 'sing'"),
                ({"tool_choice": {"type": "mcp", "name": "brew"}}, "tool_choice.type", '"function"'),
                ({"tool_choice": {"type": "function"}}, "tool_choice.name", "is missing"),
                ({"tool_choice": "perhaps"}, "tool_choice", '"required"'),
            ):
                await client.send(kind, **{of: wanted})
                complaint = await client.complaint()
                assert complaint["param"] == f"{of}.{param}"
                assert why in complaint["message"]
        await client.send("response.create", response={"tool_choice": "required", "tools": []})
        assert "no tools" in (await client.complaint())["message"]
        await client.configure(tools=[BREW], tool_choice={"type": "function", "name": "brew"})
        await client.send("session.update", session={"tools": []})  # what is chosen has to be there
        assert (await client.complaint())["param"] == "session.tool_choice.name"


async def test_nano_cannot_be_made_to_call() -> None:
    async with running(ScriptedEngine()) as port, talking(port) as client:
        await client.configure(tools=[BREW | {"name": "make_coffee"}])
        for kind, of in (("session.update", "session"), ("response.create", "response")):
            for choice in ("required", {"type": "function", "name": "make_coffee"}):
                await client.send(kind, **{of: {"tool_choice": choice}})
                complaint = await client.complaint()
                assert (complaint["code"], complaint["param"]) == ("unsupported_parameter", f"{of}.tool_choice")
                assert "of its own accord" in complaint["message"]


async def test_a_model_that_calls_no_tools_says_so(tmp_path: Path) -> None:
    config = AgentConfig(model=ModelConfig(checkpoint=tmp_path))
    async with running(ScriptedEngine(), config) as port, talking(port) as client:
        for kind, name in (("session.update", "session"), ("response.create", "response")):
            await client.send(kind, **{name: {"tools": [BREW]}})
            complaint = await client.complaint()
            assert (complaint["code"], complaint["param"]) == ("unsupported_parameter", f"{name}.tools")
            assert "calls no tools" in complaint["message"]
        assert (await client.configure(tools=[], tool_choice="auto"))["session"]["tools"] == []


def test_only_a_template_that_shows_calls_makes_a_caller(tmp_path: Path) -> None:
    assert find_tool_caller(None) is None
    assert find_tool_caller(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{% if tools %}<tool_call>{% endif %}"}')
    assert isinstance(find_tool_caller(tmp_path), HermesCaller)


@given(
    parts=st.lists(st.just(CALL) | st.text("<tool_ca>xy{ ", min_size=1, max_size=12), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_calls_are_found_whatever_the_pieces(parts: list[str], cuts: list[int]) -> None:
    written = "".join(parts)
    ends = sorted({min(cut, len(written)) for cut in cuts} | {len(written)})

    def read(pieces: list[str]) -> tuple[str, list[Any]]:
        reader, found = HermesCaller().reader(TOOLS), []
        try:
            for piece in pieces:
                found += reader.feed(piece)
            found += reader.finish()
        except ToolCallError as error:
            found.append(type(error))
        return "".join(part for part in found if isinstance(part, str)), [p for p in found if not isinstance(p, str)]

    text, calls = read([written])
    assert read([written[a:b] for a, b in zip([0, *ends], ends, strict=False)]) == (text, calls)
    if "<tool_call>" not in "".join(part for part in parts if part != CALL):
        plain = "".join(part for part in parts if part != CALL)
        assert (text.replace(" ", ""), len(calls)) == (plain.replace(" ", ""), parts.count(CALL))
        assert all(call == Call("brew", '{"cups": 2}') for call in calls)
