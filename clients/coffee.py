"""A coffee machine that the assistant's own words set going: it brews what a reply says is coming up.

Simulated, and its own task. A reply that confirms an order always begins with how many and ends with "Coming up."
Knows neither broker nor server: it is given a way to tell its state.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

COUNTS: Final = {
    "once": 1,
    "twice": 2,
    "three times": 3,
    "four times": 4,
    "five times": 5,
    "six times": 6,
    "seven times": 7,
    "eight times": 8,
    "nine times": 9,
}
CONFIRMED: Final = re.compile(rf"({'|'.join(COUNTS)}) an? (.+)\. coming up\.", re.IGNORECASE)
CUP_S: Final = 1.0  # simulated machines are quick
MAX_ORDERS: Final = 16

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Coffee:
    """What to brew."""

    cups: int
    drink: str

    def __str__(self) -> str:
        return f"{self.cups} × {self.drink}"


def confirmed_coffee(reply: str) -> Coffee | None:
    """The order that a reply confirms; None for all other replies."""
    found = CONFIRMED.fullmatch(reply.strip())
    return Coffee(COUNTS[found[1].lower()], found[2]) if found else None


class CoffeeMachine:
    """Brews cup by cup, one order after the other, and tells its state whenever that changes."""

    def __init__(self, tell: Callable[[Values], Awaitable[None]], cup_s: float = CUP_S) -> None:
        """tell: takes {"state": "idle"}, and "brewing" or "ready" with drink, cup and cups"""
        self._tell, self._cup_s = tell, cup_s
        self._orders: asyncio.Queue[Coffee] = asyncio.Queue(MAX_ORDERS)  # overflow: refused

    def order(self, coffee: Coffee) -> bool:
        """Take an order, never waiting; returns whether there was room for it."""
        if self._orders.full():
            return False
        self._orders.put_nowait(coffee)
        return True

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
