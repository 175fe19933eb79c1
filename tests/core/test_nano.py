"""The shipped model: what it weighs, and that it hears and answers the recorded people of the demo."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavllm_core.checkpoint import NANO, WEIGHTS, load
from wavllm_core.engine.api import Exchange, Heard
from wavllm_core.evaluate.listener import Listener
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.train.orders import parse
from wavllm_core.voices import load_scale

CLIPS = Path(__file__).parents[2] / "clients" / "demo" / "clips"
ORDER = Exchange("get me a latte with soy milk", reply="A latte with soy milk. How many?")


@cache
def listener() -> Listener:
    return Listener(load(NANO))


def hear(name: str) -> Heard:
    pcm, rate = soundfile.read(CLIPS / name, dtype="int16")
    assert rate == 16_000
    return listener().hear(pcm)


def test_weights_are_small_enough_for_the_repository() -> None:
    assert (NANO / WEIGHTS).stat().st_size <= 25_000_000


@pytest.mark.parametrize(("clip", "words"), [("fsdd_3_jackson_2.flac", "three"), ("wake_computer.flac", "computer")])
def test_it_writes_down_what_people_said(clip: str, words: str) -> None:
    assert listener().ask(hear(clip), TRANSCRIBE) == words


def test_a_number_is_answered_from_the_history() -> None:
    three = hear("fsdd_3_jackson_2.flac")
    alone, after_order = listener().ask(three), listener().ask(three, history=(ORDER,))
    assert alone == "You said three."
    order = parse(after_order)
    assert after_order.startswith("Three times") and order is not None and order.coffeeDrink == "latte"


def test_an_order_is_understood_as_one() -> None:
    order = parse(listener().ask(hear("s2i_540a38c2.flac")))
    assert order is not None and (order.coffeeDrink, order.roast) == ("mocha", "dark roast")


def test_one_voice_is_known_again_and_two_are_told_apart() -> None:
    three, four = hear("fsdd_3_jackson_2.flac"), hear("fsdd_4_jackson_1.flac")
    other = hear("s2i_540a38c2.flac")
    same, different = (float(three.speaker_vector @ one.speaker_vector) for one in (four, other))
    confidence = load_scale(NANO).confidence
    assert confidence(same) > 0.95 > 0.5 > confidence(different)
    assert np.linalg.norm(other.speaker_vector) == pytest.approx(1.0, abs=1e-4)
