"""Orders with instructions: the rules agree with the readers of answers, and scores with the rules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.evaluate.history import questions
from wavllm_core.evaluate.instructed import CHAIN, CHOICE, GERMAN, MANY, ask, instructed_baselines, instructed_figures
from wavllm_core.evaluate.metrics import Share
from wavllm_core.tasks import read_chain, read_letter, read_options, read_segments
from wavllm_core.train.german import german, parse_german, translated
from wavllm_core.train.lessons import KINDS, NOT_SAID, Lesson, chain, choice, lesson, many
from wavllm_core.train.orders import Order, parse, random_order, random_spoken_form

MOCHA = Order("iced mocha", size="medium", roast="medium roast", milkAmount="a bit of soy milk", sugarAmount="sugar")


def test_an_order_in_german() -> None:
    assert german(MOCHA) == "einen mittleren mittel gerösteten Eismokka mit ein bisschen Sojamilch und Zucker"
    assert translated("may i have a latte", Order("latte")) == "Darf ich einen Latte haben?"
    assert translated("", Order("latte")) == "Ich möchte einen Latte."  # as labels without words have it


@given(seed=st.integers(0, 10_000))
def test_an_order_comes_back_from_german(seed: int) -> None:
    rng = random.Random(seed)
    order = random_order(rng)
    assert parse_german(translated(random_spoken_form(order, rng), order)) == order
    assert parse_german(f"**{german(order)}**") == order


@pytest.mark.parametrize("text", ["", "a large mocha", "Ich möchte Tee.", "einen großen Tee mit Milch"])
def test_what_is_no_german_order_is_none(text: str) -> None:
    assert parse_german(text) is None


@given(seed=st.integers(0, 10_000))
def test_the_right_option_is_what_was_said(seed: int) -> None:
    rng = random.Random(seed)
    order = random_order(rng)
    asked = choice(order, rng)
    options = read_options(asked.instruction)
    letter = read_letter(asked.answer, options)
    assert letter is not None and len(set(options.values())) == 3
    right = options[letter]
    assert right == NOT_SAID or right in order.slots().values()
    assert asked.answer == f"{right}. The answer is: {letter}"


@given(seed=st.integers(0, 10_000))
def test_answers_of_many_parts_are_read_as_they_were_made(seed: int) -> None:
    rng = random.Random(seed)
    order = random_order(rng)
    words = random_spoken_form(order, rng)
    segments = read_segments(many(order, words, rng).answer)
    assert 2 <= len(segments) <= 3 and all(segment.announcement and segment.content for segment in segments)
    steps = read_chain(chain(order, words).answer)
    assert steps.transcript == words
    assert parse(steps.summary) == parse(order.describe()) and parse_german(steps.translation) == order


def test_every_task_has_its_lesson() -> None:
    assert {lesson(task, MOCHA, "", random.Random(0)).task for task in KINDS} == set(KINDS)


def test_who_answers_by_the_rules_has_everything_right_and_who_says_nothing_nothing() -> None:
    rng = random.Random(1)
    orders = [random_order(rng) for _ in range(30)]
    told: list[Lesson] = []
    for order in orders:
        told += [row.lesson for row in ask(order, random.Random(order.describe()), lambda _: "")]
    answers = iter(told)
    right = [
        row for order in orders for row in ask(order, random.Random(order.describe()), lambda _: next(answers).answer)
    ]
    figures = instructed_figures(right)
    assert {figure.percent for figure in figures.values()} == {100.0}
    assert figures[CHOICE] == Share(60, 60) and figures[f"{GERMAN}, all slots right"] == Share(30, 30)
    silent = instructed_figures(row for order in orders for row in ask(order, random.Random(0), lambda _: ""))
    assert {figure.right for figure in silent.values()} == {0}
    assert silent[f"{MANY}, followed"].total >= 60 and silent[f"{CHAIN}, all three steps given"].total == 30
    assert instructed_baselines(right)[CHOICE].endswith(")") and instructed_baselines([]) == {}
    assert instructed_figures([]) == {}


def test_the_questions_about_the_history_are_always_the_same_ones() -> None:
    asked = list(questions())
    assert len(asked) == 200
    assert sum(question.reply == "You have not ordered yet." for question in asked) == 105  # the baseline's 52.5 %
    assert all(question.asked.text and question.asked.reply is None for question in asked)
    assert all(past.reply for question in asked for past in question.history)
