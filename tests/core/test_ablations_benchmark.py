"""Variants of one training: each has the whole budget, and differs in what its name says alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.core.test_training import write_recipe
from wavllm_core.checkpoint import load
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
