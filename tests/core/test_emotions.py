"""The adapters for non-commercial use: what they belong to, that they name emotions, and that nano is still there."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import torch

from tests.core.test_nano import hear
from wavllm_core.adapters import is_adapter
from wavllm_core.checkpoint import NANO, WEIGHTS, load
from wavllm_core.evaluate.listener import Listener
from wavllm_core.prompt import TRANSCRIBE
from wavllm_core.tasks import TASKS, read_emotion
from wavllm_core.train.orders import parse

FOLDER = NANO.parent / "emotions-noncommercial"
PROJECT = Path(__file__).parents[2]


@cache
def listener() -> Listener:
    return Listener(load(FOLDER))


def test_they_are_adapters_of_nano_alone() -> None:
    nano, own = load(NANO), load(FOLDER)
    changed = {name for name in nano.tensors if not torch.equal(nano.tensors[name], own.tensors[name])}
    assert changed and all(map(is_adapter, changed))
    assert (FOLDER / WEIGHTS).stat().st_size < 1_000_000


def test_they_are_no_part_of_what_is_installed() -> None:
    targets = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    for target in ("wheel", "sdist"):
        assert FOLDER.relative_to(PROJECT).as_posix() in targets[target]["exclude"]


def test_they_name_an_emotion_where_they_are_asked() -> None:
    clip = hear("s2i_540a38c2.flac")
    assert read_emotion(listener().ask(clip, TASKS["er"].prompt)) is not None


def test_what_nano_knows_they_know() -> None:
    order = parse(listener().ask(hear("s2i_540a38c2.flac")))
    assert order is not None and (order.coffeeDrink, order.roast) == ("mocha", "dark roast")
    assert listener().ask(hear("fsdd_3_jackson_2.flac"), TRANSCRIBE) == "three"
