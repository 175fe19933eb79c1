"""Coffee orders in German: the grammar of `orders.py`, phrase by phrase, and the way back to slots."""

from __future__ import annotations

import re

from wavllm_core.train.orders import Order

OPENINGS = {
    "brew": "Brüh mir {}.",
    "can i get": "Kann ich {} bekommen?",
    "can i have": "Kann ich {} haben?",
    "i want": "Ich will {}.",
    "get me": "Hol mir {}.",
    "give me": "Gib mir {}.",
    "i'd like": "Ich möchte {}.",
    "make me": "Mach mir {}.",
    "may i have": "Darf ich {} haben?",
}
SIZES = {
    "eight ounce": "acht Unzen großen", "twelve ounce": "zwölf Unzen großen",
    "sixteen ounce": "sechzehn Unzen großen", "twenty ounce": "zwanzig Unzen großen",
    "small": "kleinen", "medium": "mittleren", "large": "großen",
}  # fmt: skip
ROASTS = {"light roast": "hell gerösteten", "medium roast": "mittel gerösteten", "dark roast": "dunkel gerösteten"}
SHOTS = {"single shot": "einfachen", "double shot": "doppelten", "triple shot": "dreifachen"}
DRINKS = {
    "americano": "Americano", "cappuccino": "Cappuccino", "espresso": "Espresso", "iced mocha": "Eismokka",
    "latte": "Latte", "mocha": "Mokka", "coffee": "Kaffee", "drip coffee": "Filterkaffee",
    "house coffee": "Hauskaffee", "iced coffee": "Eiskaffee",
}  # fmt: skip
AMOUNTS = {
    "a little bit of ": "ein wenig ", "a bit of ": "ein bisschen ", "some ": "etwas ", "a lot of ": "viel ",
    "lots of ": "reichlich ",
}  # fmt: skip
MILKS = {
    "milk": "Milch", "skim milk": "Magermilch", "whole milk": "Vollmilch", "soy milk": "Sojamilch",
    "almond milk": "Mandelmilch", "cream": "Sahne",
}  # fmt: skip
SUGARS = {"sugar": "Zucker", "brown sugar": "braunem Zucker", "sweetener": "Süßstoff"}


def german(order: Order) -> str:
    """What is ordered, as the object of a sentence: `einen kleinen Mokka mit etwas Sojamilch und Zucker`."""
    words = [
        table[said]
        for table, said in (
            (SIZES, order.size), (ROASTS, order.roast), (SHOTS, order.numberOfShots), (DRINKS, order.coffeeDrink),
        )
        if said
    ]  # fmt: skip
    extras = [_extra(said, names) for said, names in ((order.milkAmount, MILKS), (order.sugarAmount, SUGARS)) if said]
    return f"einen {' '.join(words)}" + (f" mit {' und '.join(extras)}" if extras else "")


def translated(words: str, order: Order) -> str:
    """The whole sentence in which `words` order; a plain wish where they do not open as the grammar does."""
    opening = next((form for start, form in OPENINGS.items() if words.startswith(f"{start} ")), OPENINGS["i'd like"])
    return opening.format(german(order))


def parse_german(text: str) -> Order | None:
    """The order that a translation holds, or None."""
    found = _PATTERN.search(text)
    if not found:
        return None
    return Order(
        DRINKS_BACK[found["drink"]],
        *(back.get(found[name] or "") for back, name in ((_SIZES, "size"), (_ROASTS, "roast"), (_SHOTS, "shots"))),
        *(_english(found[name], names) for name, names in (("milk", MILKS), ("sugar", SUGARS))),
    )


def _extra(said: str, names: dict[str, str]) -> str:
    amount = next((amount for amount in AMOUNTS if said.startswith(amount)), "")
    return AMOUNTS.get(amount, "") + names[said.removeprefix(amount)]


def _english(said: str | None, names: dict[str, str]) -> str | None:
    found = {_extra(amount + name, names): amount + name for amount in ("", *AMOUNTS) for name in names}
    return found[said] if said else None


def _any(*phrases: str) -> str:
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


DRINKS_BACK, _SIZES, _ROASTS, _SHOTS = (
    {there: here for here, there in table.items()} for table in (DRINKS, SIZES, ROASTS, SHOTS)
)
_AMOUNT = rf"(?:{_any(*AMOUNTS.values())})?"
_PATTERN = re.compile(
    rf"\beinen (?:(?P<size>{_any(*_SIZES)}) )?(?:(?P<roast>{_any(*_ROASTS)}) )?(?:(?P<shots>{_any(*_SHOTS)}) )?"
    rf"(?P<drink>{_any(*DRINKS_BACK)})\b"
    rf"(?: mit (?:(?P<milk>{_AMOUNT}(?:{_any(*MILKS.values())}))\b)?"
    rf"(?: und )?(?P<sugar>{_AMOUNT}(?:{_any(*SUGARS.values())})\b)?)?"
)
