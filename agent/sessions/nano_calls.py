"""How the shipped model calls a function: it writes none, but what it confirms is an order with slots. Pure.

It was taught to say "Three times a large latte with soy milk. Coming up."; where a client offers `make_coffee`, that
sentence is the call. It cannot put what came of it into words, so the output says that itself, or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from agent.protocol.tools import FunctionTool
from agent.sessions.tool_calls import Call
from wavllm_core.train.dialogue import DIGITS, TIMES
from wavllm_core.train.orders import parse

MAKE_COFFEE: Final = "make_coffee"
COUNTS: Final = {TIMES.get(digit, f"{digit} times").lower(): cups for cups, digit in enumerate(DIGITS) if cups}
CONFIRMED: Final = re.compile(rf"({'|'.join(COUNTS)}) (an? .+)\. coming up\.", re.IGNORECASE)
SLOTS: Final = {  # the names of the published labels → those of the function
    "coffeeDrink": "drink",
    "size": "size",
    "roast": "roast",
    "numberOfShots": "shots",
    "milkAmount": "milk",
    "sugarAmount": "sugar",
}
MAX_SAID_CHARS: Final = 500


class NanoCaller:
    """What the shipped model knows about functions."""

    def tell(self, tools: Sequence[FunctionTool]) -> str:
        """Nothing: it reads no descriptions."""
        return ""

    def opening(self, tools: Sequence[FunctionTool]) -> None:
        """It calls when it has understood an order, and not otherwise."""

    def write_call(self, call: Call) -> str:
        """Nothing: the order stands in the reply before."""
        return ""

    def write_output(self, output: str) -> str:
        """Nothing: it would not understand."""
        return ""

    def phrase(self, output: str) -> str:
        """What to say of an output: its own `say`, or what is wrong."""
        try:
            values: Any = json.loads(output)
        except (ValueError, RecursionError):
            values = output
        if not isinstance(values, dict):
            return str(values)[:MAX_SAID_CHARS] or "Done."
        if values.get("say"):
            return str(values["say"])[:MAX_SAID_CHARS]
        return f"That did not work: {values['error']}"[:MAX_SAID_CHARS] if values.get("error") else "Done."

    def reader(self, tools: Sequence[FunctionTool]) -> NanoReader:
        """For one reply."""
        return NanoReader(any(tool.name == MAKE_COFFEE for tool in tools))


class NanoReader:
    """Lets all text through, and adds the call at its end."""

    def __init__(self, makes_coffee: bool) -> None:
        self._makes_coffee, self._written = makes_coffee, ""

    def feed(self, piece: str) -> list[str | Call]:
        """All of it is text."""
        self._written += piece
        return [piece]

    def finish(self) -> list[str | Call]:
        """The order, where one was confirmed."""
        arguments = confirmed_order(self._written) if self._makes_coffee else None
        return [Call(MAKE_COFFEE, json.dumps(arguments))] if arguments else []


def confirmed_order(reply: str) -> dict[str, Any] | None:
    """The slots that a reply confirms, and how many cups; None for all other replies."""
    found = CONFIRMED.fullmatch(reply.strip())
    order = parse(found[2]) if found else None
    if found is None or order is None:
        return None
    return {"cups": COUNTS[found[1].lower()], **{SLOTS[name]: value for name, value in order.slots().items()}}
