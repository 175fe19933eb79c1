from __future__ import annotations

import random

import pytest

from clients.coffee import Coffee, confirmed_coffee
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
