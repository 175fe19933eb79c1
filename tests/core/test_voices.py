"""Whose vectors they are, and what their similarity means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wavllm_core.checkpoint import NANO
from wavllm_core.errors import CheckpointError
from wavllm_core.evaluate.calibrate import fit_slope
from wavllm_core.voices import SCALE, VoiceScale, fingerprint, load_scale, save_scale


def weights(folder: Path, acoustic: float = 0.0, llm: float = 0.0, prefix: str = "acoustic.") -> str:
    save_file(
        {f"{prefix}layer": torch.full((3,), acoustic), "llm.layer": torch.full((2,), llm)},
        str(folder / "model.safetensors"),
    )
    return fingerprint(folder)


def test_only_the_weights_that_make_the_vectors_name_them(tmp_path: Path) -> None:
    name = weights(tmp_path)
    assert weights(tmp_path, llm=1.0) == name != weights(tmp_path, acoustic=1.0)
    stock = weights(tmp_path, prefix="encoder.")  # nothing tells which tensors count, so all do
    assert stock != weights(tmp_path, llm=1.0, prefix="encoder.")


def test_a_scale_is_kept_for_the_weights_that_it_was_measured_with(tmp_path: Path) -> None:
    scale = VoiceScale(weights(tmp_path), 0.4, 9.0, 8.0, "people")
    save_scale(tmp_path, scale)
    assert load_scale(tmp_path) == scale
    weights(tmp_path, acoustic=1.0)
    assert load_scale(tmp_path).eer_percent is None
    (tmp_path / SCALE).write_text('{"threshold": 1}')
    with pytest.raises(CheckpointError, match=f"{SCALE}: no scale of voices"):
        load_scale(tmp_path)


def test_damaged_and_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        fingerprint(tmp_path)
    weights(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:4], whole[:40], whole[:-15], b"\xff" * 100):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
            fingerprint(tmp_path)


def test_the_shipped_scale_is_of_the_shipped_weights() -> None:
    assert load_scale(NANO).measured_on != "nothing"


def test_a_slope_is_found_again() -> None:
    rng = np.random.default_rng(0)
    margins = rng.uniform(-1, 1, 50_000)
    same = rng.random(50_000) < 1 / (1 + np.exp(-6 * margins))
    assert fit_slope(margins, same) == pytest.approx(6, rel=0.05)
