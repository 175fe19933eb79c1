"""Scores and their baselines, on answers whose right figures are known."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.errors import InputError
from wavllm_core.evaluate.command import evaluate
from wavllm_core.evaluate.metrics import (
    Estimate,
    Share,
    bleu,
    bleu_counts,
    bleu_metric,
    equal_error_rate,
    estimate,
    normalise,
    word_error_rate,
)
from wavllm_core.evaluate.report import markdown, write_json
from wavllm_core.evaluate.tasks import (
    Answers,
    add_noise,
    age_figures,
    baselines,
    noise_figures,
    score,
)
from wavllm_core.evaluate.voices import voice_error
from wavllm_core.train.corpus import Clip
from wavllm_core.train.orders import Order

MOCHA, LATTE = Order("mocha", milkAmount="soy milk"), Order("latte")


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    pack = tmp_path / "pack.tar"
    pack.write_bytes(b"never read")
    with pytest.raises(InputError, match=r"pack\.tar: cannot be written"):
        evaluate(pack, None, pack, None, 1, print)


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


def test_words_heard_in_noise_alone_are_wrong() -> None:
    clip = Clip("", "noise", "dev")
    answers = Answers(said={"noise": [(clip, "", ""), (clip, " a latte", ""), (clip, " .", "")]})
    assert score(answers)["noise alone, no words heard"] == Share(2, 3)


def test_orders_in_noise_are_counted_by_ratio_and_by_kind() -> None:
    answers = Answers()
    answers.noisy_orders = [(6, "kitchen", False), (6, "other", True), (24, "kitchen", True), (24, "other", True)]
    figures, name = noise_figures(answers), "coffee orders in noise, all slots right"
    assert figures[f"{name}, mean of 6 to 24 dB"] == Share(3, 4)
    assert figures[f"{name}, 6 dB"] == figures[f"{name}, kitchen noise"] == Share(1, 2)
    assert figures[f"{name}, 24 dB"] == figures[f"{name}, other noise"] == Share(2, 2)
    assert noise_figures(Answers()) == {}


def test_noise_has_the_ratio_while_there_is_speech() -> None:
    rng = np.random.default_rng(0)
    speech = (rng.standard_normal(16_000) * 2000).astype(np.int16)
    clip = np.concatenate([np.zeros(16_000, np.int16), speech, np.zeros(16_000, np.int16)])
    noise = (rng.standard_normal(40_000) * 300).astype(np.int16)
    added = add_noise(clip, {"other": [noise]}, "other", 12, random.Random(0)).astype(float) - clip
    powers = np.mean(np.square(speech.astype(float))) / np.mean(np.square(added))
    assert 10 * np.log10(powers) == pytest.approx(12, abs=0.5)
    assert np.square(added[:8_000]).mean() == pytest.approx(np.square(added).mean(), rel=0.1)


def test_word_error_rates_go_by_the_age_in_the_label() -> None:
    rows = [
        (Clip("", "so762", "dev", "so tim went", label="age=6 gender=f"), "so tim", ""),
        (Clip("", "so762", "dev", "so tim went", label="age=31 gender=m"), "so tim went", ""),
        (Clip("", "so762", "dev", "so tim went", label="gender=m"), "", ""),
    ]
    figures = age_figures(rows)
    assert figures == {
        "read sentences, under 10 years, WER %": pytest.approx(100 / 3),
        "read sentences, 18 and more years, WER %": 0,
    }


def test_voices_in_noise_are_compared_with_clean_ones() -> None:
    north, east = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    clean = [("a", north), ("a", north), ("b", east), ("b", east)]
    swapped = [("a", east), ("a", east), ("b", north), ("b", north)]
    assert voice_error(clean)[0] == 0
    assert voice_error(clean, swapped)[0] == 100


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


@given(order=st.permutations([True, True, False, False, False]))
def test_scores_that_are_equal_say_nothing(order: list[bool]) -> None:
    rate, _ = equal_error_rate(np.full(5, 0.5), np.array(order))
    assert rate == 50


@pytest.mark.parametrize(
    ("text", "normal"),
    [("Don’t  STOP, now!", "don't stop now"), ("Schöne_Grüße", "schöne grüße"), ("…", ""), ("ＡＢＣ 12", "abc 12")],
)
def test_words_are_compared_in_one_form(text: str, normal: str) -> None:
    assert normalise(text) == normal == normalise(normal)


SENTENCES = st.lists(st.sampled_from(["ein", "Haus", "am", "See", "."]), min_size=1, max_size=9).map(" ".join)


@given(pairs=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5))
def test_bleu_of_summed_counts_is_that_of_the_corpus(pairs: list[tuple[str, str]]) -> None:
    references, guesses = zip(*pairs, strict=True)
    metric = bleu_metric(references)
    wanted = metric.corpus_score(guesses, [references]).score
    assert bleu(bleu_counts(metric, references, guesses)) == pytest.approx(wanted)


def test_bleu_parts_chinese_into_characters() -> None:
    metric = bleu_metric(["今天天气很好"])
    assert bleu(bleu_counts(metric, ["今天天气很好"], ["今天天气很好"])) == pytest.approx(100)
    assert "|tok:zh|" in str(metric.get_signature())


def test_intervals_cover_what_theory_says() -> None:
    right = np.arange(400) % 2
    found = estimate(400, lambda drawn: 100 * float(right[drawn].mean()))
    half = 1.96 * 100 * math.sqrt(0.25 / 400)
    assert found.value == 50 and found.items == 400
    assert found.low == pytest.approx(50 - half, abs=1) and found.high == pytest.approx(50 + half, abs=1)
    assert found == estimate(400, lambda drawn: 100 * float(right[drawn].mean()))  # seeded
    assert estimate(3, lambda drawn: 7.0) == Estimate(7, 7, 7, 3)
    undefined = estimate(2, lambda drawn: math.nan if drawn[0] == drawn[1] else 1.0)
    assert (undefined.low, undefined.high) == (1, 1)
    with pytest.raises(ValueError, match="no items"):
        estimate(0, lambda drawn: 0.0)


def test_estimates_stand_in_both_reports(tmp_path: Path) -> None:
    figures = {"st, BLEU": Estimate(20.04, 18.0, 22.06, 9), "threshold": 0.5}
    page = markdown(figures, {"st, BLEU": "0.0"}, "title", ("figure", "items"), ["Read this."])
    assert "| figure | % | 95 % interval | items | baseline |" in page and page.endswith("\n\nRead this.\n")
    assert "| st, BLEU | 20.0 | 18.0-22.1 | 9 | 0.0 |" in page
    write_json(figures, tmp_path / "scores.json", notes=["ü"])
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == {
        "notes": ["ü"],
        "st, BLEU": {"value": 20.04, "low": 18.0, "high": 22.06, "items": 9},
        "threshold": 0.5,
    }
