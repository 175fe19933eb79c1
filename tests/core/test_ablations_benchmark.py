"""Variants of one training: each has the whole budget, and differs in what its name says alone."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.core.test_training import write_recipe
from tests.core.tiny import tiny_checkpoint
from wavllm_core.checkpoint import load
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.metrics import Share

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """With two stages of the tiny model, of two steps and one."""
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("ablations")
    stages = []
    for name, changes in (("1", {"gate": False, "steps": 2}), ("2", {"gate": True, "steps": 1})):
        path = write_recipe(tmp_path, frozen=["acoustic.", "semantic."], validate_every=1_000, **changes)
        stages.append(path.rename(tmp_path / f"{name}.yaml"))
    monkeypatch.setattr(module, "STAGES", tuple(stages))
    return module


def last(folder: Path, name: str, stage: str) -> dict[str, object]:
    return torch.load(folder / name / stage / "last.pt", weights_only=True)


@pytest.mark.needs("espeak-ng")
@pytest.mark.timeout(120)
def test_all_variants_have_one_budget_and_are_what_they_are_called(ablations: ModuleType, tmp_path: Path) -> None:
    folder, corpus, slug = tmp_path / "out", tmp_path / "corpus", ablations.slug
    exported = {name: ablations.train(name, one, folder, corpus, None) for name, one in ablations.VARIANTS.items()}
    for name, one in ablations.VARIANTS.items():
        stages = ["2"] if one.first is None else ["1", "2"]
        steps = [last(folder, slug(one.first_of or name) if stage == "1" else slug(name), stage) for stage in stages]
        assert sum(int(str(saved["step"])) for saved in steps) == 3
    heard = {name: load(path).tensors["projection.weight"] for name, path in exported.items()}
    half = heard[ablations.FULL].shape[1] // 2
    for name, silent in (("Whisper type alone", slice(half, None)), ("WavLM type alone", slice(None, half))):
        assert not heard[name][:, silent].any() and heard[name].any()
    assert all(heard[name][:, part].any() for name in (ablations.FULL, "no gate") for part in ([0], [-1]))
    again = ablations.train(ablations.FULL, ablations.VARIANTS[ablations.FULL], folder, corpus, None)
    assert torch.equal(load(again).tensors["projection.weight"], heard[ablations.FULL])  # what is done stays done


def test_a_row_has_each_share_with_its_interval(ablations: ModuleType) -> None:
    found = {"a": {"orders": Share(9, 10)}, "b": {"orders": Share(0, 10)}}
    assert list(ablations.row("orders", found)) == [10, "90.0 (60-98)", "0.0 (0-28)"]


def test_blocks_of_other_lengths_look_back_as_far(
    ablations: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A block that is longer than the clip is as good as one pass over the whole of it."""
    tiny, heard, back = tiny_checkpoint(tmp_path), list[torch.Tensor](), list[int]()

    def ask(listener: Listener, packs: list[Path], limit: int | None) -> dict[str, Share]:
        config = listener.decoder.speech.config
        heard.append(listener.hear(np.full(6_000, 3_000, np.int16)).speech_embeds)
        back.append(config.block_frames * config.left_blocks)
        return {"orders": Share(len(heard), 10)}

    monkeypatch.setattr(ablations, "ask", ask)
    monkeypatch.setattr(ablations, "load", lambda folder: tiny)
    monkeypatch.setattr(sys, "argv", ["ablations.py", "a.tar", "--blocks", "--out", str(tmp_path)])
    ablations.main()
    saved = json.loads((tmp_path / "ablations-blocks.json").read_text())
    titles = ("160 ms", "320 ms", "640 ms", "1280 ms", "30000 ms")
    assert [saved[title]["orders"]["right"] for title in titles] == [1, 2, 3, 4, 5]
    context = tiny.config.block_frames * tiny.config.left_blocks
    assert back[0] == context and all(frames >= context for frames in back)
    assert torch.equal(heard[-2], heard[-1]) and not torch.allclose(heard[0], heard[-1])
