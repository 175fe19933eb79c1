from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clients.appliances import MAX_ORDERS, CoffeeMachine, Light


class Told(list[dict[str, Any]]):
    async def __call__(self, values: dict[str, Any]) -> None:
        self.append(values)


async def test_the_machine_brews_in_order_and_tells_every_cup() -> None:
    told = Told()
    machine = CoffeeMachine(told, cup_s=0)
    mocha = {"size": "large", "roast": "dark roast", "milk": "cream", "sugar": "sugar"}
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(machine.run())
        assert (await machine.call({"cups": 2, "drink": "latte"}))["order"] == "2 × latte"
        assert "error" not in await machine.call({"cups": 1, "drink": "mocha", **mocha})
        await machine.finished()
        working.cancel()
    drink = "large dark roast mocha with cream and sugar"
    assert [(values["state"], values.get("drink"), values.get("cup")) for values in told] == [
        ("idle", None, None),
        ("brewing", "latte", 1),
        ("brewing", "latte", 2),
        ("ready", "latte", 2),
        ("brewing", drink, 1),
        ("ready", drink, 1),
    ]


async def test_a_machine_takes_no_more_than_it_can_remember() -> None:
    machine = CoffeeMachine(Told())
    answers = [await machine.call({"cups": 1, "drink": "latte"}) for _ in range(MAX_ORDERS + 1)]
    assert [answer.get("error") for answer in answers] == [*[None] * MAX_ORDERS, "the machine has too much to do"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({}, "cups must be a whole number from 1 to 9, not None"),
        ({"cups": 10, "drink": "latte"}, "cups must be a whole number from 1 to 9, not 10"),
        ({"cups": True, "drink": "latte"}, "cups must be a whole number from 1 to 9, not True"),
        ({"cups": 1}, "drink is missing"),
        ({"cups": 1, "drink": 5}, "drink must be a text of at most 60 characters"),
        ({"cups": 1, "drink": "latte", "milk": "x" * 61}, "milk must be a text of at most 60 characters"),
    ],
)
async def test_what_is_no_order(arguments: dict[str, Any], fault: str) -> None:
    assert await CoffeeMachine(Told()).call(arguments) == {"error": fault}


async def test_a_light() -> None:
    told = Told()
    light = Light(told)
    assert (await light.call({"on": True, "percent": 40}))["say"] == "The light is on."
    assert (await light.call({"on": False}))["say"] == "The light is off."
    assert told == [{"on": True, "percent": 40}, {"on": False, "percent": 0}]
    assert (await light.call({}))["error"] == "on must be true or false, not None"
    assert (await light.call({"on": True, "percent": 0}))["error"].startswith("percent must be a whole number")
    assert len(told) == 2
