"""What else can be asked about an order that is heard, in the prompts and the answer styles of the publication.

Multiple choice, translation, many instructions at once, chain of thought. Knows no audio; the same lessons
train the model and, on other clips, score it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from wavllm_core.tasks import CHAIN_OF_THOUGHT, SEGMENT_BREAK, TASKS, many_instructions, multiple_choice
from wavllm_core.train.german import german, translated
from wavllm_core.train.orders import AMOUNTS, DRINKS, MILKS, ROASTS, SHOTS, SIZES, SUGARS, Order

NOT_SAID = "not said"
TRANSLATE = TASKS["st"].prompt
QUESTIONS = {
    "coffeeDrink": ("What does the speaker order?", "Which drink does the speaker want?"),
    "size": ("Which size does the speaker want?", "How big is the drink?"),
    "roast": ("Which roast does the speaker want?", "How is the coffee roasted?"),
    "numberOfShots": ("How many shots does the speaker want?", "Which number of shots is ordered?"),
    "milkAmount": ("Which milk does the speaker want?", "What is said about milk?"),
    "sugarAmount": ("How does the speaker want it sweetened?", "What is said about sugar?"),
}
VALUES = {
    "coffeeDrink": DRINKS,
    "size": SIZES,
    "roast": ROASTS,
    "numberOfShots": SHOTS,
    "milkAmount": tuple(amount + name for name in MILKS for amount in AMOUNTS),
    "sugarAmount": tuple(amount + name for name in SUGARS for amount in AMOUNTS),
}
Kind = Literal["sqa", "st", "ii", "cot"]  # names of wavllm_core.tasks
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Lesson:
    """An instruction about what is heard, and its one right answer."""

    task: Kind
    instruction: str
    answer: str


def choice(order: Order, rng: random.Random) -> Lesson:
    """A question about one slot, mostly one that was said, with three options; `not said` is often among them."""
    said = [slot for slot in QUESTIONS if getattr(order, slot)]
    slot = rng.choice(said if rng.random() < 0.6 else list(QUESTIONS))
    right = getattr(order, slot) or NOT_SAID
    others = [value for value in VALUES[slot] if value != right]
    options = [right, *rng.sample(others, 2)]
    if right != NOT_SAID and slot != "coffeeDrink" and rng.random() < 0.6:
        options[2] = NOT_SAID
    rng.shuffle(options)
    answer = f"{right}. The answer is: {'ABC'[options.index(right)]}"  # found first, then looked up
    return Lesson("sqa", multiple_choice(rng.choice(QUESTIONS[slot]), options), answer)


def translation(order: Order, words: str) -> Lesson:
    """Into German."""
    return Lesson("st", TRANSLATE, translated(words, order))


def chain(order: Order, words: str) -> Lesson:
    """Transcript, summary, and the summary in German."""
    answer = (
        f"The audio transcription is: {words}; The audio clip have been summarized as follows: {order.describe()}; "
        f"The translation of summary is: **{german(order)}**"
    )
    return Lesson("cot", CHAIN_OF_THOUGHT, answer)


def many(order: Order, words: str, rng: random.Random) -> Lesson:
    """Two or three instructions at once, each answered in its place; one of them may not need the audio."""
    asked = choice(order, rng)
    number = rng.randrange(len(NUMBERS) - 1)
    sums = f"what comes after {NUMBERS[number]}?"
    parts = [
        ("transcribe the audio clip into text", f"Here's the text from the audio recording: {words}"),
        (asked.instruction, f"The answer to the question is: {asked.answer[-1]}"),
        ("translate the audio clip into German", f"The translation is: {translated(words, order)}"),
        (f"ignore the audio clip, {sums}", f"The response to '{sums}' is: {NUMBERS[number + 1]}"),
    ]
    instructions, answers = zip(*rng.sample(parts, rng.choice((2, 2, 3))), strict=True)
    return Lesson("ii", many_instructions(instructions), SEGMENT_BREAK.join(answers))


def lesson(task: Kind, order: Order, words: str, rng: random.Random) -> Lesson:
    """One of KINDS."""
    if task == "sqa":
        return choice(order, rng)
    if task == "st":
        return translation(order, words)
    return chain(order, words) if task == "cot" else many(order, words, rng)
