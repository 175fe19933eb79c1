from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from clients.coffee import MAX_ORDERS, Coffee, CoffeeMachine, confirmed_coffee
from wavllm_core.train.dialogue import DIGITS, Event, Scene
from wavllm_core.train.orders import random_order


@pytest.mark.parametrize("cups", range(1, 10))
def test_what_the_assistant_is_taught_to_confirm_is_brewed(cups: int) -> None:
    scene, order = Scene(), random_order(random.Random(cups))
    asked = scene.reply(Event("", order=order), None)
    assert confirmed_coffee(asked) is None
    coffee = confirmed_coffee(scene.reply(Event("", digit=DIGITS[cups]), None))
    assert coffee == Coffee(cups, order.describe().partition(" ")[2])


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "You said three.",
        "No coffee then. I cancelled a latte.",
        "A latte. How many?",
        "Ten times a latte. Coming up.",
    ],
)
def test_nothing_else_is_brewed(reply: str) -> None:
    assert confirmed_coffee(reply) is None


async def test_the_machine_brews_in_order_and_tells_every_cup() -> None:
    told: list[dict[str, Any]] = []

    async def tell(values: dict[str, Any]) -> None:
        told.append(values)

    machine = CoffeeMachine(tell, cup_s=0)
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(machine.run())
        assert machine.order(Coffee(2, "latte"))
        assert machine.order(Coffee(1, "mocha"))
        await machine.finished()
        working.cancel()
    assert [(values["state"], values.get("drink"), values.get("cup")) for values in told] == [
        ("idle", None, None),
        ("brewing", "latte", 1),
        ("brewing", "latte", 2),
        ("ready", "latte", 2),
        ("brewing", "mocha", 1),
        ("ready", "mocha", 1),
    ]


def test_a_machine_takes_no_more_than_it_can_remember() -> None:
    async def tell(values: dict[str, Any]) -> None:
        raise AssertionError("it does not run")

    machine = CoffeeMachine(tell)
    assert [machine.order(Coffee(1, "latte")) for _ in range(MAX_ORDERS + 1)] == [*[True] * MAX_ORDERS, False]
