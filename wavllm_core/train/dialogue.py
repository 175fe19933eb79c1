"""What the nano assistant should answer, as a small world with rules, from which training dialogues come.

A scene is a list of events; each has an author, words, and the one right reply given what went before.
The same rules answer a real clip, a synthetic one and a typed line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wavllm_core.prompt import Turn
from wavllm_core.train.orders import Order, random_order, random_spoken_form

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WAKE_PHRASES = (
    "alexa", "computer", "jarvis", "smart mirror", "snowboy", "view glass",
    "athena", "amelia", "hey computer", "hey chatterbox",
)  # fmt: skip
REFUSAL = "Sorry, I only know coffee orders, numbers and my names."
TIMES = {"one": "Once", "two": "Twice"}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "order": (
        "what did i order", "repeat my order", "what was my order", "tell me my order", "which drink did i order",
        "what coffee did i ask for", "what am i getting", "can you repeat my order",
    ),
    "count": ("how many did i order", "how many did i ask for", "how many am i getting"),
    "number": ("what number did i say", "which number was that", "repeat the number", "what was the number"),
    "size": ("what size is it", "which size did i order", "what size did i order", "how big is my coffee"),
    "milk": ("which milk did i order", "what milk did i ask for", "does it have milk", "is there milk in it"),
    "sugar": ("how much sugar is in it", "is there sugar in it", "what about sugar", "did i ask for sugar"),
    "roast": ("which roast did i order", "what roast is it", "what roast did i ask for"),
    "shots": ("how many shots", "how many shots did i order", "how many shots are in it"),
    "who": ("who ordered the {drink}", "who wanted the {drink}"),
}  # fmt: skip
_SLOT_OF = {
    "size": "size", "milk": "milkAmount", "sugar": "sugarAmount", "roast": "roast", "shots": "numberOfShots",
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Something a user says. Exactly one of `order`, `digit`, `wake` is set, or none: see `text`."""

    text: str
    order: Order | None = None
    digit: str | None = None
    wake: str | None = None


@dataclass
class Scene:
    """A conversation so far: who ordered what, which number was said. Answers one event after another."""

    orders: list[tuple[int | None, Order]] = field(default_factory=list)
    counts: dict[int, str] = field(default_factory=dict)  # index of an order -> how many
    number: str | None = None
    open_order: int | None = None  # the order whose count was asked for and not given yet

    def reply(self, event: Event, speaker: int | None) -> str:
        """The right answer; the scene goes on from there."""
        if event.order:
            self.orders.append((speaker, event.order))
            self.open_order = len(self.orders) - 1
            return sentence(f"{event.order.describe()}. How many?")
        if event.digit:
            return self._count(event.digit)
        if event.wake:
            return sentence(f"{event.wake} is listening.")
        return self._answer(event.text, speaker)

    def known(self) -> list[str]:
        """The kinds of question that the last order and the last number answer."""
        number = ["number"] if self.number else []
        if not self.orders:
            return number
        slots = self.orders[-1][1].slots()
        counted = ["count"] if len(self.orders) - 1 in self.counts else []
        asked = [kind for kind, slot in _SLOT_OF.items() if slot in slots]
        return ["order", "who", *asked, *asked, *counted, *number]  # slots twice: they are the hardest to find

    def _count(self, digit: str) -> str:
        self.number = digit
        if self.open_order is None:
            return f"You said {digit}."
        index, self.open_order = self.open_order, None
        order = self.orders[index][1].describe()
        if digit == "zero":
            del self.orders[index]
            return f"No coffee then. I cancelled {order}."
        self.counts[index] = digit
        return f"{TIMES.get(digit, sentence(digit) + ' times')} {order}. Coming up."

    def _answer(self, text: str, speaker: int | None) -> str:
        for drink_speaker, order in reversed(self.orders):
            if text in [form.format(drink=order.coffeeDrink) for form in QUESTIONS["who"]]:
                return "I do not know who." if drink_speaker is None else f"Speaker {drink_speaker} did."
        kind = next((name for name, forms in QUESTIONS.items() if text in forms), None)
        if kind is None:
            return "Nobody did." if text.startswith(("who ordered", "who wanted")) else REFUSAL
        if kind == "number":
            return f"You said {self.number}." if self.number else "You have not said a number."
        mine = [i for i, (owner, _) in enumerate(self.orders) if speaker is None or owner in (None, speaker)]
        if not mine:
            return "You have not ordered yet."
        order = self.orders[mine[-1]][1]
        if kind == "order":
            return f"You ordered {order.describe()}."
        if kind == "count":
            count = self.counts.get(mine[-1])
            return f"You ordered {count}." if count else "You have not said how many."
        slot = getattr(order, _SLOT_OF[kind])
        return sentence(f"{slot}.") if slot else "You did not say."


def sentence(text: str) -> str:
    """With a capital at the start."""
    return text[:1].upper() + text[1:]


class Writer:
    """Makes up events and whole scenes; `chatter` is sentences that the assistant should refuse."""

    def __init__(self, rng: random.Random, chatter: Sequence[str]) -> None:
        self.rng = rng
        self.chatter = chatter
        self._kinds: list[tuple[float, Callable[[Scene], Event]]] = [
            (0.30, self._order),
            (0.14, self._digit),
            (0.08, self._wake),
            (0.40, self.question),
            (0.08, self._chatter),
        ]

    def _order(self, scene: Scene) -> Event:
        order = random_order(self.rng)
        return Event(random_spoken_form(order, self.rng), order=order)

    def _digit(self, scene: Scene) -> Event:
        digit = self.rng.choice(DIGITS)
        return Event(digit, digit=digit)

    def _wake(self, scene: Scene) -> Event:
        wake = self.rng.choice(WAKE_PHRASES)
        return Event(wake, wake=wake)

    def question(self, scene: Scene) -> Event:
        """Something asked about what went before; more often than not, something that was said."""
        kinds = scene.known() if self.rng.random() < 0.7 else []
        kind = self.rng.choice(kinds or (list(QUESTIONS) if scene.orders else list(QUESTIONS)[:-1]))
        form = self.rng.choice(QUESTIONS[kind])
        ordered = [order.coffeeDrink for _, order in scene.orders]
        return Event(form.format(drink=self.rng.choice(ordered) if ordered else ""))

    def _chatter(self, scene: Scene) -> Event:
        return Event(self.rng.choice(self.chatter))

    def event(self, scene: Scene) -> Event:
        """Something a user might say next; asked how many, most people say."""
        if scene.open_order is not None and self.rng.random() < 0.4:
            return self._digit(scene)
        weights = [weight for weight, _ in self._kinds]
        return self.rng.choices([make for _, make in self._kinds], weights)[0](scene)

    def history(self, scene: Scene, turns: int, speakers: int, curious: bool = False) -> list[Turn]:
        """Earlier turns, the scene advanced past them; now and then a transcript is not there yet.

        Curious people order first and ask about it then.
        """
        past = []
        for i in range(turns):
            if curious and i == 0:
                event = self._order(scene)
            else:
                event = self.question(scene) if curious and self.rng.random() < 0.7 else self.event(scene)
            past.append(self.turn(scene, event, self.speaker(speakers)))
        return past

    def ordered(self, scene: Scene, speakers: int) -> Turn:
        """An order, whose count is asked for."""
        return self.turn(scene, self._order(scene), self.speaker(speakers))

    def turn(self, scene: Scene, event: Event, speaker: int | None) -> Turn:
        """One earlier turn, the scene advanced past it."""
        heard = event.text if self.rng.random() < 0.8 else ""
        return Turn(text=heard, speaker=speaker, reply=scene.reply(event, speaker))

    def speaker(self, speakers: int) -> int | None:
        """One of the voices of a scene; with 0 voices nobody is told apart."""
        return self.rng.randint(1, speakers) if speakers else None
