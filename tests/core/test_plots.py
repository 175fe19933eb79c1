"""Plots of the evaluation: each is one readable SVG file, and the same for the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wavllm_core.evaluate.dev_plots import draw
from wavllm_core.evaluate.plots import confusion_chart
from wavllm_core.evaluate.tasks import Answers
from wavllm_core.train.corpus import Clip


def answers() -> Answers:
    rng = np.random.default_rng(0)
    found = Answers(gates={"none": 1.0, "translate": 1.5})
    found.said["so762"] = [(Clip("", "so762", "dev", "so tim went", label="age=6"), "so tim", "")]
    found.noisy_orders = [(snr_db, kind, snr_db > 9) for snr_db in (6, 12, 24) for kind in ("kitchen", "other")]
    found.voices = [(name, rng.standard_normal(4).astype(np.float32)) for name in "aabbcc"]
    found.noisy_voices = found.voices
    return found


def test_everything_that_was_asked_is_drawn(tmp_path: Path) -> None:
    plots = draw(answers(), tmp_path)
    assert [path.stem for path in plots.values()] == ["orders-in-noise", "wer-by-age", "det", "gates"]
    for path in plots.values():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    first = {path: path.read_bytes() for path in plots.values()}
    draw(answers(), tmp_path)
    assert {path: path.read_bytes() for path in first} == first


def test_nothing_is_drawn_of_what_was_not_asked(tmp_path: Path) -> None:
    assert draw(Answers(), tmp_path) == {} and not list(tmp_path.iterdir())


def test_confusions_stand_where_they_belong(tmp_path: Path) -> None:
    confusion_chart(tmp_path / "x.svg", "x", {"happy": {"happy": 41, "none": 17}, "sad": {"happy": 9, "sad": 23}})
    written = re.findall(r"<!-- (\w+) -->", (tmp_path / "x.svg").read_text())
    assert written[:5] == ["happy", "sad", "none", "answered", "happy"]
    assert written[-7:-1] == ["41", "0", "17", "9", "23", "0"]  # row by row
