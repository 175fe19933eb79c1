"""Appliances of a home, simulated: a coffee machine and a light, as functions that the assistant can call.

Each is given a way to tell its state, and knows neither broker nor server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

CUP_S: Final = 1.0  # simulated machines are quick
MAX_CUPS: Final = 9
MAX_ORDERS: Final = 16
MAX_SLOT_CHARS: Final = 60
BEFORE: Final = ("size", "roast", "shots")  # the drink
WITH: Final = ("milk", "sugar")

Values = dict[str, Any]
Tell = Callable[[Values], Awaitable[None]]


class Appliance(Protocol):
    """One function of a device."""

    @property
    def tool(self) -> Values:
        """As OpenAI Realtime describes functions."""

    async def call(self, arguments: Mapping[str, Any]) -> Values:
        """What came of it; `error` when nothing did, `say` is said. Takes any arguments at all."""


@dataclass(frozen=True, slots=True)
class Coffee:
    """What to brew."""

    cups: int
    drink: str

    def __str__(self) -> str:
        return f"{self.cups} × {self.drink}"


def read_order(arguments: Mapping[str, Any]) -> Coffee:
    """Raises ValueError, naming the argument, when it is no order."""
    cups = arguments.get("cups")
    if isinstance(cups, bool) or not isinstance(cups, int) or not 1 <= cups <= MAX_CUPS:
        raise ValueError(f"cups must be a whole number from 1 to {MAX_CUPS}, not {cups!r}")
    said = {}
    for name in (*BEFORE, "drink", *WITH):
        value = arguments.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_SLOT_CHARS:
            raise ValueError(f"{name} must be a text of at most {MAX_SLOT_CHARS} characters")
        said[name] = value.strip()
    if not said["drink"]:
        raise ValueError("drink is missing")
    phrase = " ".join(filter(None, [said[name] for name in BEFORE] + [said["drink"]]))
    extras = " and ".join(filter(None, (said[name] for name in WITH)))
    return Coffee(cups, f"{phrase} with {extras}" if extras else phrase)


class CoffeeMachine:
    """Brews cup by cup, one order after the other, and tells its state whenever that changes."""

    def __init__(self, tell: Tell, cup_s: float = CUP_S) -> None:
        """tell: takes {"state": "idle"}, and "brewing" or "ready" with drink, cup and cups"""
        self._tell, self._cup_s = tell, cup_s
        self._orders: asyncio.Queue[Coffee] = asyncio.Queue(MAX_ORDERS)  # overflow: refused

    @property
    def tool(self) -> Values:
        """See `Appliance`."""
        texts = {name: {"type": "string", "maxLength": MAX_SLOT_CHARS} for name in (*BEFORE, "drink", *WITH)}
        cups = {"type": "integer", "minimum": 1, "maximum": MAX_CUPS}
        parameters = {"type": "object", "properties": {"cups": cups, **texts}, "required": ["cups", "drink"]}
        return {
            "type": "function",
            "name": "make_coffee",
            "description": "Makes coffee, when how many cups is known.",
            "parameters": parameters,
        }

    async def call(self, arguments: Mapping[str, Any]) -> Values:
        """See `Appliance`; the coffee is not ready yet then."""
        try:
            coffee = read_order(arguments)
        except ValueError as error:
            return {"error": str(error)}
        if self._orders.full():
            return {"error": "the machine has too much to do"}
        self._orders.put_nowait(coffee)
        return {"order": str(coffee), "say": "The machine is brewing."}

    async def run(self) -> None:
        """Work until cancelled."""
        await self._tell({"state": "idle"})
        while True:
            coffee = await self._orders.get()
            for cup in range(1, coffee.cups + 1):
                await self._tell({"state": "brewing", "drink": coffee.drink, "cup": cup, "cups": coffee.cups})
                await asyncio.sleep(self._cup_s)
            await self._tell({"state": "ready", "drink": coffee.drink, "cup": coffee.cups, "cups": coffee.cups})
            self._orders.task_done()

    async def finished(self) -> None:
        """Wait until all that was ordered is ready."""
        await self._orders.join()


class Light:
    """On or off, and how bright."""

    def __init__(self, tell: Tell) -> None:
        """tell: takes {"on": true, "percent": 100}"""
        self._tell = tell

    @property
    def tool(self) -> Values:
        """See `Appliance`."""
        percent = {"type": "integer", "minimum": 1, "maximum": 100}
        parameters = {
            "type": "object",
            "properties": {"on": {"type": "boolean"}, "percent": percent},
            "required": ["on"],
        }
        return {
            "type": "function",
            "name": "set_light",
            "description": "Switches the light on or off.",
            "parameters": parameters,
        }

    async def call(self, arguments: Mapping[str, Any]) -> Values:
        """See `Appliance`."""
        on, percent = arguments.get("on"), arguments.get("percent", 100)
        if not isinstance(on, bool):
            return {"error": f"on must be true or false, not {on!r}"}
        if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 100:
            return {"error": f"percent must be a whole number from 1 to 100, not {percent!r}"}
        await self._tell({"on": on, "percent": percent if on else 0})
        return {"on": on, "say": f"The light is {'on' if on else 'off'}."}
