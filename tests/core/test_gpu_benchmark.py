"""The benchmark of 7B sizes at tiny sizes: nothing but its numbers needs a GPU."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gpu")


def test_every_step_stands_beside_its_floor(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    arguments = ["gpu.py", "--device", "cpu", "--tiny", "--repeats", "1", "--threads", str(threads)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path)])
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [line["step"].split()[0] for line in found["lines"]] == ["Whisper,"] * 2 + ["read"] * 2 + ["decode"] * 2
    assert all(line["floor_ms"] > 0 for line in found["lines"])
    assert [level["people"] for level in found["levels"]] == [1, 2]
    assert all(level["turns"] >= level["people"] for level in found["levels"])
    assert (tmp_path / "gpu.svg").exists()


def test_the_floors_are_those_of_the_sizes(gpu: ModuleType) -> None:
    """One token of a 7B model reads its 13.2 GB of weights and LoRA, and computes next to nothing."""
    bench = gpu.Bench("cpu", 1, gpu.TINY)
    bench.bandwidth, bench.rate = 4.3e12, 790e12  # of an H200
    assert bench.floor_ms(13.2e9, 13.2e9) == pytest.approx(3.07, abs=0.01)
    assert bench.floor_ms(1.27e9, 2273e9) == pytest.approx(2.88, abs=0.01)  # Whisper, 30 s


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    gpu.main()
    assert "no GPU here" in capsys.readouterr().out and not list(tmp_path.iterdir())
