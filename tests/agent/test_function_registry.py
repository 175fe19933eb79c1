"""Whatever a model asks of a function of the server's own comes to an outcome; timers and the time, no time passing."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FunctionError
from agent.functions.builtin import MAX_TIMER_S, MAX_TIMERS, TimerNews, Timers, time_functions
from agent.functions.permissions import Permissions
from agent.functions.registry import Asked, Function, Registry
from agent.sessions.tool_calls import Call

SCHEMA = {
    "type": "object",
    "properties": {"cups": {"type": "integer", "minimum": 1}},
    "required": ["cups"],
    "additionalProperties": False,
}


async def brew(arguments: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
    if arguments["cups"] > 9:
        raise FunctionError("too_many", "the machine holds nine cups")
    return {"brewed": arguments["cups"]}


BREW = Function("brew", "Makes coffee.", SCHEMA, brew)


async def output(
    registry: Registry, function: str, written: str | None = None, /, at_s: float = 0, **given: Any
) -> Any:
    call = Call(function, json.dumps(given) if written is None else written)
    outcome = await registry.carry_out(call, Asked(f"call at {at_s}", at_s))
    values = json.loads(outcome.output)
    assert (values.get("code"), values.get("error")) == (outcome.code, outcome.message)
    return values


async def test_arguments_are_checked_before_anything_is_done() -> None:
    registry = Registry([BREW], 5)
    assert await output(registry, "brew", cups=2) == {"brewed": 2}
    assert await output(registry, "brew", cups=10) == {"error": "the machine holds nine cups", "code": "too_many"}
    for written, why in (
        ("{}", "'cups' is a required property"),
        ('{"cups": 0}', "cups: 0 is less than the minimum of 1"),
        ('{"cups": "two"}', "cups: 'two' is not of type 'integer'"),
        ('{"cups": 1, "milk": true}', "Additional properties are not allowed ('milk' was unexpected)"),
        ('{"cups": NaN}', "the arguments are not JSON: NaN is no number"),
        ('{"cups": ', "the arguments are not JSON: Expecting value: line 1 column 10 (char 9)"),
        ("[" * 100_000, "the arguments are not JSON: maximum recursion depth exceeded"),
        ("7", "7 is not of type 'object'"),
    ):
        found = await output(registry, "brew", written)
        assert found["code"] == "invalid_arguments"
        assert found["error"].startswith(why)


async def test_what_takes_too_long_or_says_too_much_is_cut_off() -> None:
    async def hang(arguments: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def chatter(arguments: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
        return {"text": "x" * 20_000}

    anything = {"type": "object"}
    registry = Registry([Function("hang", "", anything, hang), Function("chatter", "", anything, chatter)], 0.01)
    assert await output(registry, "hang") == {"error": "hang took more than 0.01 s", "code": "timeout"}
    assert (await output(registry, "chatter"))["code"] == "too_large"


def test_functions_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="two functions named 'brew'"):
        Registry([BREW, BREW], 5)
    with pytest.raises(ValueError, match="the parameters of 'brew' are no JSON schema"):
        Registry([Function("brew", "", {"type": "cup"}, brew)], 5)


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8), max_size=3))
def test_any_arguments_come_to_an_output(arguments: dict[str, Any]) -> None:
    assert set(asyncio.run(output(Registry([BREW], 5), "brew", json.dumps(arguments)))) & {"error", "brewed"}


async def test_the_time_is_that_of_the_call() -> None:
    at = datetime(2026, 11, 25, 7, 5)
    told = await output(Registry(time_functions(), 5), "get_time", at_s=at.timestamp())
    assert told["time"].startswith("2026-11-25T07:05:00")
    assert (told["weekday"], told["say"]) == ("Wednesday", "It is 07:05.")


class Bench:
    """Timers whose time passes when a test says so."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.alarms: defaultdict[float, asyncio.Event] = defaultdict(asyncio.Event)
        self.news: asyncio.Queue[TimerNews] = asyncio.Queue()
        self.timers = Timers(tasks, self.sleep, self.news.put)
        self.registry = Registry(self.timers.functions(), 5)

    async def sleep(self, seconds: float) -> None:
        await self.alarms[seconds].wait()


@asynccontextmanager
async def timers() -> AsyncIterator[Bench]:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks)
        yield bench
        for timer in (await output(bench.registry, "list_timers"))["timers"]:
            await output(bench.registry, "cancel_timer", name=timer["name"])


async def test_timers_are_set_listed_cancelled_and_end() -> None:
    async with timers() as bench:
        tea = await output(bench.registry, "set_timer", seconds=90, name=" Tea ")
        assert (tea["name"], tea["say"]) == ("Tea", "Tea: 1 minute and 30 seconds.")
        assert (await bench.news.get()) == TimerNews("call at 0", "Tea", "set", 90)
        assert (await output(bench.registry, "set_timer", seconds=9, name="tea"))["code"] == "exists"
        assert (await output(bench.registry, "set_timer", at_s=30, seconds=5))["name"] == "timer 1"
        listed = await output(bench.registry, "list_timers", at_s=33.06)
        assert listed["timers"] == [
            {"name": "Tea", "seconds_left": 56.9},
            {"name": "timer 1", "seconds_left": 1.9},
        ]
        assert listed["say"] == "Tea: 57 seconds left. Timer 1: 2 seconds left."
        assert (await output(bench.registry, "cancel_timer", name="TEA"))["say"] == "Tea is cancelled."
        gone = await output(bench.registry, "cancel_timer", name="tea")
        assert gone == {"error": "there is no timer 'tea'; running: timer 1", "code": "unknown"}
        assert [(await bench.news.get()).status for _ in range(2)] == ["set", "cancelled"]
        bench.alarms[5].set()
        assert (await bench.news.get()).status == "over"
        over = TimerNews("call at 30", "timer 1", "over")
        assert over.output == {"timer": "timer 1", "status": "over", "say": "Timer 1 is over."}
        assert bench.timers.end(over)
        assert not bench.timers.end(over)
        assert (await output(bench.registry, "list_timers"))["say"] == "No timer is running."


async def test_a_timer_that_was_cancelled_while_it_rang_does_not_ring() -> None:
    async with timers() as bench:
        for at_s in (1, 2):
            await output(bench.registry, "set_timer", at_s=at_s, seconds=5, name="egg")
            if at_s == 1:
                bench.alarms[5].set()
                await bench.news.get()
                over = await bench.news.get()
                await output(bench.registry, "cancel_timer", name="egg")
        assert over == TimerNews("call at 1", "egg", "over")
        assert not bench.timers.end(over), "the one that runs now is another"


async def test_no_more_timers_than_can_be_and_none_that_cannot() -> None:
    async with timers() as bench:
        for seconds, why in (
            (0, "0 is less than or equal to"),
            (-1, "-1 is less"),
            (MAX_TIMER_S + 1, "86401 is greater"),
        ):
            refused = await output(bench.registry, "set_timer", seconds=seconds)
            assert refused["code"] == "invalid_arguments"
            assert f"seconds: {why}" in refused["error"]
        assert "name: " in (await output(bench.registry, "set_timer", seconds=5, name="x" * 61))["error"]
        names = [(await output(bench.registry, "set_timer", seconds=5))["name"] for _ in range(MAX_TIMERS)]
        assert len(set(names)) == MAX_TIMERS
        full = await output(bench.registry, "set_timer", seconds=5)
        assert full == {"error": "16 timers are running already", "code": "too_many"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (300, "5 minutes"),
        (3_661, "1 hour, 1 minute and 1 second"),
        (7_200, "2 hours"),
    ],
)
async def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    async with timers() as bench:
        assert (await output(bench.registry, "set_timer", seconds=seconds, name="it"))["say"] == f"It: {said}."


def test_permissions() -> None:
    permissions = Permissions({"brew": ("Anna", "Ben"), "unlock": (), "light": "enrolled", "time": "everybody"})
    assert permissions.refusal("brew", "anna") is None
    assert permissions.refusal("brew", None) == permissions.refusal("brew", "Eve") == "brew is only for Anna and Ben"
    assert permissions.refusal("unlock", "Anna") == "unlock is only for nobody"
    assert permissions.refusal("light", "Eve") is None
    assert permissions.refusal("light", None) == "light is only for people whose voice is known here"
    assert permissions.refusal("time", None) is permissions.refusal("other", None) is None
