"""A coffee machine that the assistant's own words set going: it brews what a reply says is coming up.

Pure. Stands in for tool calls, which the server does not have yet: a reply that confirms an order always
begins with how many and ends with "Coming up."
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

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
