"""The benchmark of what a language model does with words: its questions have the answers that it expects."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.core.tiny import tiny_config, write_tokenizer
from wavllm_core.model import RollingWavLLM
from wavllm_core.train.orders import parse


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("listening")


def test_orders_have_the_extras_that_their_line_says(listening: ModuleType) -> None:
    rows = listening.abilities(30)
    assert all(len(part) == 30 for part in rows.values())
    for name, extras in (("orders", False), ("orders with two extras", True)):
        for row in rows[name]:
            order = parse(row.reply)
            assert order and bool(order.milkAmount and order.sugarAmount) == extras
            assert all(value in row.heard for value in order.slots().values())
    assert all(len(row.heard.split()) == 8 and row.reply == f" {row.heard}" for row in rows["copies of 8 words"])


def test_what_is_heard_collapses_to_what_was_said(listening: ModuleType) -> None:
    rng = listening.random.Random(0)
    for said in ([5, 5, 7], [7], []):
        heard = listening.as_heard(said, 0, rng)
        collapsed = [one for before, one in zip([None, *heard], heard, strict=False) if one not in (before, 0)]
        assert collapsed == said


def test_a_model_is_right_where_its_likeliest_tokens_are(
    listening: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").write_text(tiny_config().to_json())
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    torch.save({"model": RollingWavLLM(tiny_config()).state_dict(), "heads": {}}, tmp_path / "last.pt")
    arguments = ["listening.py", str(tmp_path / "last.pt"), "--model", str(tmp_path / "model.json"), "--rows", "2"]
    threads = str(torch.get_num_threads())
    arguments += ["--tokenizer", str(tokenizer), "--out", str(tmp_path), "--threads", threads]
    monkeypatch.setattr(sys, "argv", arguments)
    listening.main()
    found = json.loads((tmp_path / "listening.json").read_text())["right_percent"]
    assert found["copies of 3 words"] == [0.0] and len(found) == 11
    model, template = RollingWavLLM(tiny_config()).eval(), listening.PromptTemplate(listening.load_tokenizer(tokenizer))
    always_over = torch.zeros_like(model.llm.get_input_embeddings().weight)
    always_over[template.end_id] = 1.0
    head = torch.nn.Linear(always_over.shape[1], always_over.shape[0])
    head.weight.data.zero_()
    head.bias.data = always_over[:, 0]
    model.llm.get_base_model().lm_head = head
    assert listening.right(model, template, [listening.Row("", "word"), listening.Row("a", "word")], True) == 1
