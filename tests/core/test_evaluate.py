"""Scores and their baselines, on answers whose right figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from wavllm_core.evaluate.metrics import Share, equal_error_rate, word_error_rate
from wavllm_core.evaluate.report import markdown
from wavllm_core.evaluate.tasks import Answers, baselines, score
from wavllm_core.train.corpus import Clip
from wavllm_core.train.orders import Order

MOCHA, LATTE = Order("mocha", milkAmount="soy milk"), Order("latte")


def test_figures_and_baselines_count_what_was_said() -> None:
    answers = Answers()
    answers.said["fsdd"] = [
        (Clip("", "fsdd", "dev", "three"), "three", "You said three."),
        (Clip("", "fsdd", "dev", "three"), "tree", "You said three."),
        (Clip("", "fsdd", "dev", "four"), "four", "You said five."),
    ]
    answers.said["s2i"] = [
        (Clip("", "s2i", "dev", order=MOCHA), "", "A mocha with soy milk. How many?"),
        (Clip("", "s2i", "dev", order=LATTE), "", "A large latte. How many?"),
    ]
    answers.questions = [("You did not say.", "You did not say."), ("Large.", "Small.")]
    figures, floor = score(answers), baselines(answers)
    assert figures["digits, transcribed"] == figures["digits, answered"] == Share(2, 3)
    assert figures["coffee orders, all slots right"] == Share(1, 2)  # a slot too many is wrong
    assert figures["typed questions about the history"] == Share(1, 2)
    assert floor["digits, transcribed"].startswith("66.7")
    assert "| digits, transcribed | 66.7 |" in markdown(figures, floor, "title")


def test_error_rates() -> None:
    assert word_error_rate(["so tim went"], ["So, Tim want!"]) == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="without words"):
        word_error_rate(["..."], ["a"])
    rate, _ = equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]))
    assert rate == 0
    rate, _ = equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, True, False]))
    assert rate == 50
    with pytest.raises(ValueError, match="same and of different"):
        equal_error_rate(np.array([0.5]), np.array([True]))
