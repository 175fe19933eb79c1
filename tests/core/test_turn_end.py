"""The scorer of finished turns belongs to its weights, and tells whole utterances from those that were cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavllm_core.checkpoint import NANO, TIED_HEAD, load
from wavllm_core.engine.api import Heard
from wavllm_core.engine.llama import PREFIX
from wavllm_core.errors import CheckpointError
from wavllm_core.model import RollingWavLLM
from wavllm_core.turn_end import FILE, SPANS, TurnEnd, features, find_turn_end, fingerprint, save_turn_end

CLIPS = Path(__file__).parents[2] / "clients/demo/clips"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def heard(embeds: torch.Tensor) -> Heard:
    return Heard(embeds, np.zeros(1, np.float32), 1.0)


def test_it_is_found_with_its_own_weights_only(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_turn_end(folder) is None and not caplog.records
    save_turn_end(folder, TurnEnd(fingerprint(folder), 1.0, [0.5] * 2 * len(SPANS), "nothing"))
    score = find_turn_end(folder)
    assert score
    assert score(heard(torch.zeros(20, 2))) == pytest.approx(1 / (1 + np.exp(-1)))
    assert score(heard(torch.full((1, 2), 1e9, dtype=torch.bfloat16))) == pytest.approx(1)
    (folder / "model.safetensors").write_bytes(b"trained on")
    assert find_turn_end(folder) is None
    assert "was fitted to other weights" in caplog.text


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": 1, "bias": 0, "weights": "x", "fitted_on": ""}'])
def test_a_damaged_file_is_named(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=FILE):
        find_turn_end(folder)


def test_spans_lie_at_the_end() -> None:
    rows = torch.arange(20.0)[:, None].expand(20, 2)
    assert features(rows).tolist() == [18, 18, 15, 15, 11.5, 11.5]
    assert features(rows[:2]).tolist() == [0.5, 0.5, 0, 0, 0.5, 0.5]


def test_the_shipped_one_hears_that_an_order_was_cut_off() -> None:
    score, checkpoint = find_turn_end(None), load(NANO)
    assert score
    model = RollingWavLLM(checkpoint.config).eval().requires_grad_(False)
    model.load_state_dict(checkpoint.tensors | {TIED_HEAD: checkpoint.tensors[f"{PREFIX}embed_tokens.weight"]})

    def told(waveform: np.ndarray) -> float:
        faded = waveform.copy()
        faded[-320:] *= np.linspace(1, 0, 320, dtype=np.float32)
        with torch.inference_mode():
            return score(heard(model.encode(torch.from_numpy(np.pad(faded, (3_200, 1_600)))[None]).speech_embeds[0]))

    whole, cut = [], []
    for path in sorted(CLIPS.glob("s2i_*.flac")):
        waveform = soundfile.read(path, dtype="float32")[0]
        loud = np.flatnonzero(np.abs(waveform) > 0.05 * np.abs(waveform).max())
        whole.append(told(waveform[: loud[-1] + 800]))
        cut.append(told(waveform[: loud[0] + (loud[-1] - loud[0]) * 6 // 10]))
    assert np.median(cut) < 0.35 < 0.6 < np.median(whole), (whole, cut)


def test_a_copy_of_the_shipped_weights_has_the_same_name(tmp_path: Path) -> None:
    shutil.copy(NANO / "model.safetensors", tmp_path)
    assert fingerprint(tmp_path) == fingerprint(NANO) == json.loads((NANO / FILE).read_text())["fingerprint"]
