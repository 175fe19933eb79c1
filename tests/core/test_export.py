"""Training checkpoints become folders that can be served, alone or as their mean."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.core.tiny import tiny_model, write_tokenizer
from wavllm_core.checkpoint import load
from wavllm_core.errors import CheckpointError
from wavllm_core.train.export import export
from wavllm_core.train.loop import read_weights


def write_trained(path: Path, shift: float) -> Path:
    """The tiny model as training saves it, every weight moved a little."""
    model = {name: tensor + shift for name, tensor in tiny_model().state_dict().items()}
    torch.save({"model": model, "heads": {}, "step": 1}, path)
    return path


def test_one_checkpoint_and_the_mean_of_several(tmp_path: Path) -> None:
    config, tokenizer = tmp_path / "config.json", write_tokenizer(tmp_path / "tokenizer.json")
    config.write_text(json.dumps(asdict(tiny_model().config)))
    one, other = write_trained(tmp_path / "one.pt", 0.0), write_trained(tmp_path / "other.pt", 2.0)
    export([one], config, tokenizer, tmp_path / "alone")
    export([one, other], config, tokenizer, tmp_path / "mean")
    alone, mean = load(tmp_path / "alone"), load(tmp_path / "mean")
    name = "projection.weight"
    assert torch.equal(alone.tensors[name], tiny_model().state_dict()[name].bfloat16().float())
    assert torch.equal(mean.tensors[name], (tiny_model().state_dict()[name] + 1).bfloat16().float())


def test_checkpoints_that_do_not_fit_are_named(tmp_path: Path) -> None:
    config, tokenizer = tmp_path / "config.json", write_tokenizer(tmp_path / "tokenizer.json")
    config.write_text(json.dumps(asdict(tiny_model().config)))
    one = write_trained(tmp_path / "one.pt", 0.0)
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        export([one, tmp_path / "gone.pt"], config, tokenizer, tmp_path / "out")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: of another model than .*one\.pt"):
        export([one, tmp_path / "odd.pt"], config, tokenizer, tmp_path / "out")
    (tmp_path / "cut.pt").write_bytes(one.read_bytes()[:1_000])
    torch.save({"trained": {}, "optimizer": {}, "step": 1}, tmp_path / "tuned.pt")
    for name, fault in (("cut", "damaged"), ("tuned", "no checkpoint of a training from scratch: model is missing")):
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: {fault}"):
            export([tmp_path / f"{name}.pt"], config, tokenizer, tmp_path / "out")
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: {fault}"):
            read_weights(tmp_path / f"{name}.pt")
    assert not (tmp_path / "out").exists()
