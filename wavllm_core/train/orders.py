"""Coffee orders: what they consist of, how people say them, how the assistant repeats them.

The slots and phrasings are those of Picovoice's coffee-maker grammar (Apache-2.0).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

DRINKS = (
    "americano", "cappuccino", "espresso", "iced mocha", "latte", "mocha", "coffee", "drip coffee",
    "house coffee", "iced coffee",
)  # fmt: skip
SIZES = (
    "eight ounce", "twelve ounce", "sixteen ounce", "twenty ounce", "small", "medium", "large",
)  # fmt: skip
ROASTS = ("light roast", "medium roast", "dark roast")
SHOTS = ("single shot", "double shot", "triple shot")
AMOUNTS = ("", "a little bit of ", "a bit of ", "some ", "a lot of ", "lots of ")
MILKS = ("milk", "skim milk", "whole milk", "soy milk", "almond milk", "cream")
SUGARS = ("sugar", "brown sugar", "sweetener")
OPENINGS = (
    "brew", "can i get", "can i have", "i want", "get me", "give me", "i'd like", "make me", "may i have",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """The slots of one order, in the names of the published labels; None: not said."""

    coffeeDrink: str
    size: str | None = None
    roast: str | None = None
    numberOfShots: str | None = None
    milkAmount: str | None = None
    sugarAmount: str | None = None

    @classmethod
    def from_slots(cls, slots: dict[str, str]) -> Order:
        """From a label; raises TypeError for a slot that does not exist."""
        return cls(**slots)

    def slots(self) -> dict[str, str]:
        """What was said, by slot."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def describe(self) -> str:
        """One fixed phrasing, from which `parse` gets every slot back."""
        extras = " and ".join(filter(None, (self.milkAmount, self.sugarAmount)))
        words = filter(None, (self.size, self.roast, self.numberOfShots, self.coffeeDrink))
        phrase = " ".join(words) + (f" with {extras}" if extras else "")
        return f"{article(phrase)} {phrase}"

    def spoken_forms(self) -> Iterator[str]:
        """Every way in which the grammar says this order."""
        modifiers = [word for word in (self.size, self.roast, self.numberOfShots) if word]
        extras = [word for word in (self.milkAmount, self.sugarAmount) if word]
        for opening, order, tail in itertools.product(
            OPENINGS, itertools.permutations(modifiers), itertools.permutations(extras)
        ):
            phrase = " ".join((*order, self.coffeeDrink))
            ending = f" with {' and '.join(tail)}" if tail else ""
            for word in {"a", article(phrase)}:
                yield f"{opening} {word} {phrase}{ending}"


def article(phrase: str) -> str:
    """The indefinite article that `phrase` takes."""
    return "an" if phrase[0] in "aei" else "a"


_PATTERN = re.compile(
    rf"\ban? (?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<roast>{'|'.join(ROASTS)}) )?"
    rf"(?:(?P<numberOfShots>{'|'.join(SHOTS)}) )?(?P<coffeeDrink>{'|'.join(sorted(DRINKS, key=len, reverse=True))})"
    rf"(?: with (?:(?P<milkAmount>(?:{'|'.join(AMOUNTS[1:])})?(?:{'|'.join(MILKS)})))?"
    rf"(?: and )?(?P<sugarAmount>(?:{'|'.join(AMOUNTS[1:])})?(?:{'|'.join(SUGARS)}))?)?",
    re.IGNORECASE,
)


def parse(text: str) -> Order | None:
    """The order that a reply repeats, or None where it holds none."""
    found = _PATTERN.search(text)
    return Order(**{name: value and value.lower() for name, value in found.groupdict().items()}) if found else None


def random_order(rng: random.Random) -> Order:
    """An order with each optional slot present about half the time."""

    def maybe(values: tuple[str, ...]) -> str | None:
        return rng.choice(values) if rng.random() < 0.45 else None

    def amount(values: tuple[str, ...]) -> str | None:
        value = maybe(values)
        return value and (rng.choice(AMOUNTS) if rng.random() < 0.5 else "") + value

    return Order(rng.choice(DRINKS), maybe(SIZES), maybe(ROASTS), maybe(SHOTS), amount(MILKS), amount(SUGARS))


def random_spoken_form(order: Order, rng: random.Random) -> str:
    """One of `spoken_forms`, without listing them all."""
    modifiers = [word for word in (order.size, order.roast, order.numberOfShots) if word]
    extras = [word for word in (order.milkAmount, order.sugarAmount) if word]
    rng.shuffle(modifiers)
    rng.shuffle(extras)
    phrase = " ".join((*modifiers, order.coffeeDrink))
    ending = f" with {' and '.join(extras)}" if extras else ""
    return f"{rng.choice(OPENINGS)} {article(phrase)} {phrase}{ending}"


SLOTS = tuple(field.name for field in fields(Order))
