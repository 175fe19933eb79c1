"""The shipped model confirms an order, and that is a call; what came of it is said as the client words it."""

from __future__ import annotations

import json
import random

import pytest

from agent.protocol.tools import FunctionTool
from agent.sessions.nano_calls import MAKE_COFFEE, NanoCaller, confirmed_order
from agent.sessions.tool_calls import Call
from tests.agent.harness import running, talking
from tests.agent.scripted import ScriptedEngine
from tests.agent.test_items import create, message
from wavllm_core.train.dialogue import DIGITS, Event, Scene
from wavllm_core.train.orders import random_order

COFFEE = {"type": "function", "name": MAKE_COFFEE, "parameters": {"type": "object"}}
LATTE = ["Twice a large latte with", " a bit of soy milk. Coming up."]


@pytest.mark.parametrize("cups", range(1, 10))
@pytest.mark.parametrize("seed", range(4))
def test_every_order_that_the_model_is_taught_to_confirm_is_a_call(cups: int, seed: int) -> None:
    scene, order = Scene(), random_order(random.Random(seed))
    assert confirmed_order(scene.reply(Event("", order=order), None)) is None
    arguments = confirmed_order(scene.reply(Event("", digit=DIGITS[cups]), None))
    assert arguments is not None
    assert (arguments["cups"], arguments["drink"]) == (cups, order.coffeeDrink)
    assert len(arguments) == len(order.slots()) + 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "You said three.",
        "No coffee then. I cancelled a latte.",
        "A latte. How many?",
        "Ten times a latte. Coming up.",
        "Twice a lemonade. Coming up.",
    ],
)
def test_nothing_else_is_a_call(reply: str) -> None:
    assert confirmed_order(reply) is None


async def test_an_order_its_call_and_what_came_of_it() -> None:
    engine = ScriptedEngine()
    async with running(engine) as port, talking(port) as client:
        await client.configure(tools=[COFFEE])
        await create(client, message("two"))
        engine.words = LATTE
        await client.send("response.create")
        said, call = (await client.until("response.done"))["response"]["output"]
        assert said["content"][0]["text"] == "".join(LATTE)
        assert json.loads(call["arguments"]) == {
            "cups": 2,
            "drink": "latte",
            "size": "large",
            "milk": "a bit of soy milk",
        }
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"say": "Here you are."}'}
        await create(client, output)
        await client.send("response.create")
        (said,) = (await client.until("response.done"))["response"]["output"]
        assert said["content"][0]["text"] == "Here you are."
        await create(client, message("what did i order"))
        await client.send("response.create")
        await client.until("response.done")
    assert [(old.text, old.reply) for old in engine.asked[-1][1]] == [
        ("two", "".join(LATTE)),
        ("what did i order", None),
    ], "the model is shown neither the call nor words that are not its own"


async def test_without_the_tool_there_is_no_call() -> None:
    engine = ScriptedEngine()
    engine.words = LATTE
    async with running(engine) as port, talking(port) as client:
        await client.configure(tools=[{**COFFEE, "name": "tea"}])
        await client.send("response.create")
        assert len((await client.until("response.done"))["response"]["output"]) == 1
    assert engine.asked[0][0] == "", "it reads no descriptions"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{"say": "Here you are."}', "Here you are."),
        ('{"error": "no beans"}', "That did not work: no beans"),
        ("{}", "Done."),
        ("", "Done."),
        ("42", "42"),
        ("two lattes", "two lattes"),
        ("x" * 10_000, "x" * 500),
    ],
)
def test_any_output_can_be_said(output: str, said: str) -> None:
    assert NanoCaller().phrase(output) == said


def test_a_call_is_found_whatever_the_pieces() -> None:
    reader = NanoCaller().reader([])
    assert reader.feed("Twice a latte. Coming up.") + reader.finish() == ["Twice a latte. Coming up."]
    call = Call(MAKE_COFFEE, '{"cups": 2, "drink": "latte"}')

    for size in (1, 5, 100):
        reader, text = NanoCaller().reader([FunctionTool(MAKE_COFFEE, "", "{}")]), "Twice a latte. Coming up."
        for start in range(0, len(text), size):
            reader.feed(text[start : start + size])
        assert reader.finish() == [call]
