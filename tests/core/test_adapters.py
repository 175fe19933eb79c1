"""Adapters that lie apart from what they belong to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core.tiny import tiny_model, write_tokenizer
from wavllm_core.adapters import ADAPTERS, WEIGHTS, base_of, is_adapter
from wavllm_core.checkpoint import load, save
from wavllm_core.errors import CheckpointError
from wavllm_core.train.export import export_adapters
from wavllm_core.turn_end import SPANS, TurnEnd, find_turn_end, save_turn_end
from wavllm_core.turn_end import fingerprint as turn_end_fingerprint
from wavllm_core.voices import VoiceScale, fingerprint, load_scale, save_scale


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    save(folder, tiny_model().config, tiny_model().state_dict(), write_tokenizer(tmp_path / "tokenizer.json"))
    return folder


def trained(base: Path, *parts: str) -> Path:
    """A training of `base` in which tensors with such names have moved."""
    tensors = load(base).tensors
    moved = {name: value + 1 if any(part in name for part in parts) else value for name, value in tensors.items()}
    path = base.parent / "last.pt"
    torch.save({"model": moved, "heads": {}, "step": 1}, path)
    return path


@pytest.fixture
def adapters(base: Path) -> Path:
    folder = base.parent / "more" / "adapters"
    export_adapters(trained(base, ".lora_", "gate.", "speaker_head."), base, folder)
    return folder


def test_adapters_are_the_base_but_for_lora_and_gate(base: Path, adapters: Path) -> None:
    assert json.loads((adapters / ADAPTERS).read_text())["base"] == "../../base"
    before, after = load(base), load(adapters)
    assert after.config == before.config and after.folder == adapters and base_of(base) == base
    changed = {name for name in before.tensors if not torch.equal(before.tensors[name], after.tensors[name])}
    assert changed == {name for name in before.tensors if is_adapter(name)} == set(load_file(adapters / WEIGHTS))
    assert {name.partition(".")[0] for name in changed} == {"llm", "gate"}


def test_what_was_measured_with_the_base_holds_for_its_adapters(base: Path, adapters: Path) -> None:
    scale = VoiceScale(fingerprint(base), 0.3, measured_on="people")
    save_scale(base, scale)
    save_turn_end(base, TurnEnd(turn_end_fingerprint(base), 1.0, [0.5] * 2 * len(SPANS), "nothing"))
    assert load_scale(adapters) == scale and fingerprint(adapters) == fingerprint(base)
    assert find_turn_end(adapters) is not None


def test_a_training_of_more_than_adapters_is_refused(base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"projection\.bias: is not as in .*base; more than adapters was trained"):
        export_adapters(trained(base, "projection.bias"), base, base.parent / "adapters")
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        export_adapters(base.parent / "gone.pt", base, base.parent / "adapters")
    assert not (base.parent / "adapters").exists()


def test_adapters_without_their_base_are_refused(base: Path, adapters: Path) -> None:
    shutil.move(base, base.parent / "elsewhere")
    with pytest.raises(CheckpointError, match=r"adapters\.json: base: .*base/model\.safetensors: no such file"):
        load(adapters)


def test_adapters_of_other_weights_are_refused(base: Path, adapters: Path) -> None:
    tensors = {name: value + 1 for name, value in tiny_model().state_dict().items()}
    save(base, tiny_model().config, tensors, base / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"base_sha256: .*base/model\.safetensors has other weights"):
        load(adapters)


@pytest.mark.parametrize("text", ["", "[]", '{"base": "../../base"}', '{"base": 1, "base_sha256": ""}'])
def test_a_damaged_description_is_named(adapters: Path, text: str) -> None:
    (adapters / ADAPTERS).write_text(text)
    with pytest.raises(CheckpointError, match=r"adapters\.json: does not say what the adapters belong to"):
        load(adapters)


def test_adapters_of_adapters_are_refused(base: Path, adapters: Path) -> None:
    shutil.copy(adapters / ADAPTERS, base)
    with pytest.raises(CheckpointError, match="holds adapters itself"):
        load(adapters)


@pytest.mark.parametrize("name", ["projection.weight", "gate.unheard_of"])
def test_other_tensors_among_adapters_are_refused(adapters: Path, name: str) -> None:
    save_file(load_file(adapters / WEIGHTS) | {name: torch.zeros(1)}, adapters / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{name} is no adapter of"):
        load(adapters)


def test_damaged_adapters_are_named(adapters: Path) -> None:
    (adapters / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"adapters/model\.safetensors: damaged"):
        load(adapters)
