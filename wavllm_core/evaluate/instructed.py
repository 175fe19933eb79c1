"""Recorded orders that come with an instruction: multiple choice, translation, many at once, chain of thought.

The prompts and answer styles are those of the publication; what is right follows from an order's slots.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wavllm_core.evaluate.metrics import Share, share
from wavllm_core.evaluate.scores import choices, follows
from wavllm_core.tasks import TASKS, read_chain, read_letter, read_options, read_segments
from wavllm_core.train.german import parse_german
from wavllm_core.train.lessons import NOT_SAID, Lesson, chain, choice, many, translation
from wavllm_core.train.orders import Order

MAX_TOKENS = 200  # of an answer; a chain of thought says everything three times
CHOICE, GERMAN = "multiple choice about an order", "orders in German"
INSTRUCTIONS = {  # by which the gate is looked at
    "none": "",
    "transcribe": TASKS["asr"].prompt,
    "multiple choice": choice(Order("mocha"), random.Random(0)).instruction,
    "translate": TASKS["st"].prompt,
    "many at once": many(Order("mocha"), "", random.Random(0)).instruction,
    "chain of thought": TASKS["cot"].prompt,
    "one speaker?": TASKS["sv"].prompt,
    "emotion?": TASKS["er"].prompt,
}
MANY, CHAIN = "many instructions at once", "chain of thought"


@dataclass(frozen=True)
class Answered:
    """An instruction about one order, and what the model said."""

    order: Order
    lesson: Lesson  # its transcripts are the order's description: labels have slots, no words
    said: str


def ask(order: Order, rng: random.Random, answer: Callable[[str], str]) -> Iterable[Answered]:
    """Two questions and one instruction of each other kind about an order; `answer` is the model's to one of them."""
    words = order.describe()
    lessons = (
        choice(order, rng), choice(order, rng), translation(order, words), many(order, words, rng), chain(order, words),
    )  # fmt: skip
    return [Answered(order, lesson, answer(lesson.instruction)) for lesson in lessons]


def instructed_figures(rows: Iterable[Answered]) -> dict[str, Share]:
    """What was followed, and what was right."""
    found: dict[str, list[Answered]] = {task: [] for task in TASKS}
    for row in rows:
        found[row.lesson.task].append(row)
    if not any(found.values()):
        return {}
    chosen = [(row, right_letter(row)) for row in found["sqa"]]
    figures = {
        f"{CHOICE}": share(right for _, right in chosen),
        f"{CHOICE}, what was said": share(right for row, right in chosen if not is_silent(row)),
        f"{CHOICE}, what was not said": share(right for row, right in chosen if is_silent(row)),
        f"{GERMAN}, all slots right": share(parse_german(row.said) == row.order for row in found["st"]),
    }
    segments = [(read_segments(row.lesson.answer), read_segments(row.said)) for row in found["ii"]]
    figures[f"{MANY}, followed"] = share(
        place < len(said) and follows(segment, said[place])
        for wanted, said in segments
        for place, segment in enumerate(wanted)
    )
    figures[f"{MANY}, questions among them"] = share(
        wanted == said for pair in segments for wanted, said in choices(*pair)
    )
    chains = [(row.order, read_chain(row.said)) for row in found["cot"]]
    figures[f"{CHAIN}, all three steps given"] = share(
        bool(given.transcript and given.summary and given.translation) for _, given in chains
    )
    figures[f"{CHAIN}, all slots right in German"] = share(
        parse_german(given.translation) == order for order, given in chains
    )
    return figures


def right_letter(row: Answered) -> bool:
    """Whether the answer to a question chooses the right option."""
    return letter(row, row.said) == letter(row, row.lesson.answer)


def letter(row: Answered, answer: str) -> str | None:
    """The option that an answer chooses."""
    return read_letter(answer, read_options(row.lesson.instruction))


def is_silent(row: Answered) -> bool:
    """Whether the right option says that nothing was said."""
    return row.lesson.answer.startswith(NOT_SAID)


def instructed_baselines(rows: Iterable[Answered]) -> Mapping[str, str]:
    """What the most frequent letter would score."""
    letters = Counter(letter(row, row.lesson.answer) for row in rows if row.lesson.task == "sqa")
    if not letters:
        return {}
    (most_frequent, most), total = letters.most_common(1)[0], letters.total()
    return {CHOICE: f"{100 * most / total:.1f} (always {most_frequent})"}
