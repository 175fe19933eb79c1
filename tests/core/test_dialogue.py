"""The rules that training learns from: orders and their words, and the one right reply."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.train.dialogue import REFUSAL, Event, Scene
from wavllm_core.train.orders import Order, parse, random_order, random_spoken_form

MOCHA = Order("mocha", size="large", milkAmount="soy milk")
LATTE = Order("latte", sugarAmount="lots of brown sugar")


@given(seed=st.integers(0, 10_000))
def test_an_order_comes_back_from_its_description(seed: int) -> None:
    order = random_order(random.Random(seed))
    assert parse(f"{order.describe().capitalize()}. How many?") == order


def test_a_reply_without_an_order_parses_to_none() -> None:
    assert parse("You said seven.") is None
    assert parse("") is None


def test_the_spoken_form_is_one_that_the_grammar_has() -> None:
    rng = random.Random(0)
    for _ in range(20):
        order = random_order(rng)
        assert random_spoken_form(order, rng) in set(order.spoken_forms())


def test_a_number_after_an_order_counts_it_and_alone_is_repeated() -> None:
    scene = Scene()
    assert scene.reply(Event("three", digit="three"), None) == "You said three."
    assert scene.reply(Event("", order=MOCHA), 1) == "A large mocha with soy milk. How many?"
    assert scene.reply(Event("alexa", wake="alexa"), 2) == "Alexa is listening."
    assert scene.reply(Event("three", digit="three"), 1) == "Three times a large mocha with soy milk. Coming up."
    assert scene.reply(Event("how many did i order"), 1) == "You ordered three."
    assert scene.reply(Event("four", digit="four"), 1) == "You said four."


def test_two_people_get_their_own_orders() -> None:
    scene = Scene()
    scene.reply(Event("", order=MOCHA), 1)
    scene.reply(Event("", order=LATTE), 2)
    assert scene.reply(Event("what did i order"), 1) == "You ordered a large mocha with soy milk."
    assert scene.reply(Event("what did i order"), 2) == "You ordered a latte with lots of brown sugar."
    assert scene.reply(Event("what did i order"), 3) == "You have not ordered yet."
    assert scene.reply(Event("which milk did i order"), 2) == "You did not say."
    assert scene.reply(Event("who ordered the mocha"), 2) == "Speaker 1 did."
    assert scene.reply(Event("will it rain"), 2) == REFUSAL
