"""A checkpoint comes back as it was, and one that does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core.tiny import tiny_model, write_tokenizer
from wavllm_core import checkpoint
from wavllm_core.engine.decoder import Decoder
from wavllm_core.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model()
    checkpoint.save(tmp_path / "tiny", model.config, model.state_dict(), write_tokenizer(tmp_path / "made.json"))
    return tmp_path / "tiny"


def test_round_trip_is_exact_in_bfloat16(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    wanted = {n: v.bfloat16().float() for n, v in tiny_model().state_dict().items() if n != checkpoint.TIED_HEAD}
    assert loaded.tensors.keys() == wanted.keys()
    assert all(torch.equal(loaded.tensors[name], value) for name, value in wanted.items())
    assert loaded.config == tiny_model().config
    Decoder(loaded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        checkpoint.load(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(folder)


def test_every_misfit_is_listed(folder: Path) -> None:
    path = str(folder / "model.safetensors")
    tensors = load_file(path)
    del tensors["projection.bias"]
    tensors["stranger"] = torch.zeros(1)
    tensors["gate.fc_1.bias"] = torch.zeros(3)
    tensors["gate.fc_2.bias"] = torch.full((32,), torch.nan)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        Decoder(checkpoint.load(folder))
    for part in (
        "missing projection.bias",
        "unexpected stranger",
        "gate.fc_1.bias: (3,), not (8,)",
        "not finite",
    ):
        assert part in str(caught.value)


def test_an_unknown_key_of_the_configuration_is_named(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"block_frames"', '"block_framez"'))
    with pytest.raises(CheckpointError, match=r"config\.json: .*block_framez"):
        checkpoint.load(folder)
