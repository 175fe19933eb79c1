"""Functions of the server's own: whatever a model asks for comes to an output, in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ToolError
from agent.sessions.tool_calls import Call
from agent.tools.builtin import MAX_TIMERS, Timers, tell_time
from agent.tools.registry import Registry, Tool

SCHEMA = {
    "type": "object",
    "properties": {"cups": {"type": "integer", "minimum": 1}},
    "required": ["cups"],
    "additionalProperties": False,
}


async def brew(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    if arguments["cups"] > 9:
        raise ToolError("the machine holds nine cups")
    return {"brewed": arguments["cups"]}


BREW = Tool("brew", "Makes coffee.", SCHEMA, brew)


async def output(registry: Registry, tool: str = "brew", speaker: str | None = None, /, **arguments: Any) -> Any:
    call = Call(tool, json.dumps(arguments))
    assert registry.decides(call, speaker)
    return json.loads(await registry.carry_out(call, speaker))


async def test_arguments_are_checked_before_anything_is_done() -> None:
    registry = Registry([BREW])
    assert await output(registry, cups=2) == {"brewed": 2}
    assert (await output(registry, cups=10))["error"] == "the machine holds nine cups"
    for arguments, why in (
        ({}, "'cups' is a required property"),
        ({"cups": 0}, "cups: 0 is less than the minimum of 1"),
        ({"cups": "two"}, "cups: 'two' is not of type 'integer'"),
        ({"cups": 1, "milk": True}, "Additional properties are not allowed ('milk' was unexpected)"),
    ):
        assert await output(registry, **arguments) == {"error": why, "code": "invalid_arguments"}


async def test_not_everybody_may() -> None:
    registry = Registry([BREW], allowed={"brew": ["Anna", "Ben"], "unlock": []})
    assert await output(registry, "brew", "Anna", cups=1) == {"brewed": 1}
    for speaker in (None, "Eve"):
        refused = await output(registry, "brew", speaker, cups=1)
        assert refused == {"error": "only Anna or Ben may do that", "code": "not_allowed"}
    assert (await output(registry, "unlock", "Anna"))["error"] == "only nobody may do that"
    assert not registry.decides(Call("light", "{}"), None), "that is the client's business"


async def test_what_takes_too_long_or_says_too_much_is_cut_off() -> None:
    async def hang(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def chatter(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"text": "x" * 20_000}

    anything = {"type": "object"}
    registry = Registry([Tool("hang", "", anything, hang), Tool("chatter", "", anything, chatter)], timeout_s=0.01)
    assert await output(registry, "hang") == {"error": "hang took more than 0.01 s", "code": "timeout"}
    assert (await output(registry, "chatter"))["code"] == "too_large"


def test_tools_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="two tools named 'brew'"):
        Registry([BREW, BREW])
    with pytest.raises(ValueError, match="the parameters of 'brew' are no JSON schema"):
        Registry([Tool("brew", "", {"type": "cup"}, brew)])


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8), max_size=3))
def test_any_arguments_come_to_an_output(arguments: dict[str, Any]) -> None:
    call = Call("brew", json.dumps(arguments))
    assert set(json.loads(asyncio.run(Registry([BREW]).carry_out(call, None)))) & {"error", "brewed"}


async def test_the_time() -> None:
    registry = Registry([tell_time(lambda: datetime(2026, 11, 25, 7, 5))])
    assert await output(registry, "get_time") == {"time": "2026-11-25T07:05:00", "say": "It is 07:05."}


async def test_timers_ring_and_can_be_cancelled() -> None:
    rung = list[str]()
    rang = asyncio.Event()

    async def ring(sentence: str) -> None:
        rung.append(sentence)
        rang.set()

    async with asyncio.TaskGroup() as tasks:
        registry = Registry(Timers(tasks, ring).tools())
        assert (await output(registry, "set_timer", seconds=90, name="tea"))["say"] == "Tea: 1 minute and 30 seconds."
        assert (await output(registry, "set_timer", seconds=9, name="tea"))["code"] == "exists"
        assert (await output(registry, "cancel_timer", name="tea"))["say"] == "Tea is cancelled."
        assert (await output(registry, "cancel_timer", name="tea"))["error"] == "there is no timer 'tea'"
        await output(registry, "set_timer", seconds=0.01, name="egg")
        async with asyncio.timeout(5):
            await rang.wait()
        for number in range(MAX_TIMERS):
            assert "error" not in await output(registry, "set_timer", seconds=600, name=str(number))
        assert (await output(registry, "set_timer", seconds=600))["code"] == "too_many"
        for number in range(MAX_TIMERS):
            await output(registry, "cancel_timer", name=str(number))
    assert rung == ["Egg is over."]
