"""The curriculum on a model in Hugging Face form: both stages, killed runs, rows that cannot be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState

from tests.core.tiny_hf import BETWEEN, noise, write_parts
from wavllm_core.errors import CheckpointError, InputError
from wavllm_core.hf.model import WavLLMForConditionalGeneration
from wavllm_core.hf.parts import from_parts
from wavllm_core.train.finetune import FineTuner, FineTuneRecipe
from wavllm_core.train.recipe import load_recipe

HEADER = "id\taudio\tprompt\ttgt_text\twith_speech\n"
ROWS = (
    "one\tone.wav\tsay it\tthree\tTrue\ntwo\ttwo.wav\tsay it\tfour\tTrue\ntyped\t-\twhat did i order\ta mocha\tFalse\n"
)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one precision for a whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe(folder: Path, **options: Any) -> FineTuneRecipe:
    """Writes a model of the first stage and a list of three rows."""
    if not (folder / "model").exists():
        model, processor = from_parts(*write_parts(folder), **BETWEEN, use_gate=False, lora_dropout=0.0)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        soundfile.write(folder / "one.wav", noise(0.4), 16_000)
        soundfile.write(folder / "two.wav", noise(0.9, seed=1), 16_000)
        (folder / "list.tsv").write_text(HEADER + ROWS)
    values = {
        "out": folder / "run",
        "model": folder / "model",
        "lists": {folder / "list.tsv": 1.0},
        "audio_root": folder,
        "validation": folder / "list.tsv",
        "steps": 12,
        "peak_lr": 1e-2,
        "warmup_steps": 2,
        "batch_rows": 3,
        "pool_batches": 2,
        "log_every": 4,
        "save_every": 4,
        "validate_every": 12,
    }
    return FineTuneRecipe(**(values | options))


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_both_stages(tmp_path: Path) -> None:
    first = recipe(tmp_path)
    FineTuner(first).run()
    log = lines(tmp_path / "run")
    assert log[-1]["dev_loss"] < log[0]["loss"]
    assert {"utterances_per_s", "waiting_for_data", "right", "lr"} <= log[0].keys() and "gate_mean" not in log[0]
    second = replace(first, out=tmp_path / "run2", model=tmp_path / "run" / "model", gate=True, steps=4, accumulate=2)
    FineTuner(second).run()
    assert 0 < lines(tmp_path / "run2")[0]["gate_mean"] < 3
    trained = WavLLMForConditionalGeneration.from_pretrained(tmp_path / "run2" / "model")
    assert trained.config.use_gate
    before = WavLLMForConditionalGeneration.from_pretrained(tmp_path / "run" / "model")
    assert torch.equal(trained.semantic.conv1.weight, before.semantic.conv1.weight)
    assert not torch.equal(trained.projection.weight, before.projection.weight)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = recipe(tmp_path, steps=6, save_every=3)
    FineTuner(whole).run()
    killed = replace(whole, out=tmp_path / "killed")
    run = FineTuner(killed)
    killed.out.mkdir()
    batches = run.batches(0)
    run.model.train()
    for _ in range(3):
        run.advance(batches)
    run.save()
    again = FineTuner(killed)
    assert again.step == 3
    again.run()
    one, other = (torch.load(r.out / "last.pt", weights_only=True) for r in (whole, killed))
    assert one["step"] == other["step"] == 6
    for name, tensor in one["trained"].items():
        torch.testing.assert_close(tensor, other["trained"][name], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_no_number_costs_its_own_step_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FineTuner(recipe(tmp_path))
    forward, batches = run.model.forward, run.batches(0)

    def overflow(**batch: Any) -> Any:
        out = forward(**batch)
        out.loss = out.loss * float("inf")
        return out

    def learned() -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in run.bare_model.named_parameters() if p.requires_grad}

    for _ in range(2):  # the first learning rates are small
        run.advance(batches)
    before = learned()
    with monkeypatch.context() as patched:
        patched.setattr(run.model, "forward", overflow)
        run.advance(batches)
    torch.testing.assert_close(learned(), before, rtol=0, atol=0)
    run.advance(batches)
    after = learned()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    base = recipe(tmp_path, steps=2)
    FineTuner(base).run()
    with pytest.raises(CheckpointError, match=r"last\.pt: of another model than .*; give the run another `out`"):
        FineTuner(replace(base, gate=True))


def test_accumulated_passes_equal_one(tmp_path: Path) -> None:
    """Six copies of one row, whose loss is the same in every batch: three passes of two equal one of six."""
    base = recipe(tmp_path, steps=2)
    (tmp_path / "list.tsv").write_text(HEADER + ROWS.splitlines(keepends=True)[0])
    results = []
    for rows, passes in ((6, 1), (2, 3)):
        run = FineTuner(replace(base, batch_rows=rows, accumulate=passes, out=tmp_path / f"run{rows}"))
        batches = run.batches(0)
        for _ in range(2):
            run.advance(batches)
        results.append(run.bare_model.projection.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_rows_that_cannot_be_used_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = recipe(tmp_path, steps=2, validate_every=1)  # the list is the validation, too, twice
    bad = "gone\tgone.wav\tsay it\tthree\tTrue\nmute\tone.wav\tsay it\t\tTrue\nodd\tone.wav\tsay it\tx\tmaybe\n"
    (tmp_path / "list.tsv").write_text(HEADER + ROWS + bad)
    with caplog.at_level(logging.WARNING):
        run = FineTuner(base)
        run.run()
        list(zip(range(40), run.batches(0), strict=False))
    for part in ("gone: line 5: ", "mute: line 6: tgt_text: empty", "odd: line 7: with_speech"):
        assert sum(part in record.getMessage() for record in caplog.records) == 2, part  # once for each use
    assert "rows were skipped" in caplog.text


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    base = recipe(tmp_path)
    (tmp_path / "bad.tsv").write_text(HEADER + "gone\tgone.wav\tsay it\tthree\tTrue\n")
    run = FineTuner(replace(base, lists={tmp_path / "bad.tsv": 1.0}))
    with pytest.raises(InputError, match=r"lists: none of 6 rows could be read; the first: gone: line 2: "):
        next(run.batches(0))
    (tmp_path / "mute.tsv").write_text(HEADER + "mute\tone.wav\tsay it\t\tTrue\n")
    with pytest.raises(InputError, match="lists: no row of 1 lists can be used"):
        FineTuner(replace(base, lists={tmp_path / "mute.tsv": 1.0}))
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"profile": "corrected"', '"profile": "published"'))
    with pytest.raises(InputError, match="batch_rows: 3; the published profile takes one row at a time"):
        FineTuner(base)


@pytest.mark.parametrize("name", ["paper-1-mixed", "paper-2-gate"])
def test_the_recipes_at_paper_size_run_on_tiny_parts(tmp_path: Path, name: str) -> None:
    read = load_recipe(Path("configs/train") / f"{name}.yaml", FineTuneRecipe)
    small = recipe(tmp_path)
    run = FineTuner(
        replace(read, out=small.out, model=small.model, lists=small.lists, audio_root=tmp_path, validation=None)
    )
    batches = run.batches(0)
    for _ in range(2):
        run.advance(batches)
    assert run.step == 2
    assert run.bare_model.config.use_gate == read.gate


def test_a_recipe_that_is_wrong_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, message in (
        ("lists: {a.tsv: 1}\n", "out: Field required"),
        ("out: x\nmodel: y\nlists: {a: 1}\nsteps: 1\npeak_lr: 1\nprecision: fp8\n", "precision: Input should be"),
        ("[]", "holds no keys"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(path, FineTuneRecipe)
